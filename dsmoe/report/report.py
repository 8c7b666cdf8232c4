"""The verb `report`: one page, its figures and its tables, over any set of finished cells."""

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from rich.console import Console

from dsmoe.compose import Composed
from dsmoe.config import PathsConfig
from dsmoe.folders import check_replaceable, contents, replace_folder
from dsmoe.progress import Reporter
from dsmoe.report.analyses import analyses
from dsmoe.report.collection import Collection, Entry
from dsmoe.report.curves import dev_curves, strength_curves
from dsmoe.report.differences import by_cell, by_method, tradeoff
from dsmoe.report.figure import Figure
from dsmoe.report.flips import Flips, flips
from dsmoe.report.overview import csv_of, csv_text, overview
from dsmoe.report.page import Detail, page
from dsmoe.report.specificity import draws, scores
from dsmoe.report.table import csv_text as table_csv
from dsmoe.report.table import markdown

KEY = "paths.report"
LISTING = "report.json"
"""Lists what a report's folder holds; a folder with anything else is not replaced."""
DETAILED = 4
"""Cells that are shown in full, the first in the collection's order; the overview has all."""


def report(composed: Sequence[Composed]) -> int:
    """Write the report of each study, or one of all studies where a folder is named for them.

    Raises InputError for a study without a finished cell and for a folder that cannot be written, before anything is.
    """
    reporter, console = Reporter(), Console(highlight=False, soft_wrap=True)
    wanted: dict[Path, dict[Path, Path]] = {}
    for paths, study in ((one.config.paths, one.config.study) for one in composed):
        wanted.setdefault(_folder(paths, study), {})[Path(paths.results) / study] = Path(paths.results)
    for folder in wanted:
        check_replaceable(folder, LISTING, KEY)
    found = {folder: Collection.read(list(studies)) for folder, studies in wanted.items()}
    for folder, collection in found.items():
        studies = wanted[folder]
        with reporter.work(f"report: {(count := len(collection.entries))} {'cell' if count == 1 else 'cells'}"):
            replace_folder(folder, lambda temporary: _write(temporary, collection, studies), LISTING, KEY)  # noqa: B023
        console.print(f"report: {folder / 'index.html'}", markup=False)
    return 0


def _folder(paths: PathsConfig, study: str) -> Path:
    return Path(paths.results) / study / "report" if paths.report is None else Path(paths.report).absolute()


def _write(folder: Path, collection: Collection, studies: dict[Path, Path]) -> None:
    """All of a report. `studies` maps the folders of studies to the results folders that they lie in."""
    drawings, tables = folder / "figures", folder / "tables"
    for below in (drawings, tables):
        below.mkdir()
    figures = list(_figures(collection))
    details = [Detail(entry, list(_figures_of(entry)), flips(entry)) for entry in collection.entries[:DETAILED]]
    for figure in chain(figures, *(detail.figures for detail in details)):
        figure.write(drawings)
    table = overview(collection)
    (tables / "cells.md").write_text(table.markdown(), encoding="utf-8")
    (tables / "cells.csv").write_text(
        csv_text(table.columns, [[text for text, _ in line] for line in table.lines]), encoding="utf-8"
    )
    (tables / "primary.csv").write_text(csv_of(collection), encoding="utf-8")
    for detail in details:
        _write_tables(tables, detail)
    evidence = analyses(collection, list(dict.fromkeys(studies.values())))
    title = ", ".join(study.name for study in studies)
    text = page(title, collection, table, figures, details, evidence, drawings)
    (folder / "index.html").write_text(text, encoding="utf-8")
    cells = {entry.id: entry.name for entry in collection.entries}
    listed = {"studies": title, "cells": cells, "files": [*contents(folder), LISTING]}
    (folder / LISTING).write_text(json.dumps(listed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _figures(collection: Collection) -> Iterator[Figure]:
    """Of all cells together."""
    yield from strength_curves(collection)
    yield from tradeoff(collection)
    yield from by_cell(collection)
    yield from dev_curves(collection)


def _figures_of(entry: Entry) -> Iterator[Figure]:
    """Of one cell."""
    yield from by_method(entry)
    yield from draws(entry)
    yield from scores(entry)


def _write_tables(folder: Path, detail: Detail) -> None:
    """A cell's table as it stands in its own folder, and all of its flips."""
    results, name = detail.entry.results, detail.entry.id[:8]
    (folder / f"cell-{name}.md").write_text(markdown(results), encoding="utf-8")
    (folder / f"cell-{name}.csv").write_text(table_csv(results), encoding="utf-8")
    columns = (
        "method",
        "baseline",
        "role",
        "gained",
        "record_id",
        "domain",
        "question",
        "right",
        "baseline_answer",
        "answer",
    )
    lines = [_flip_lines(of) for of in detail.flips]
    (folder / f"flips-{name}.csv").write_text(csv_text(columns, list(chain(*lines))), encoding="utf-8")


def _flip_lines(of: Flips) -> list[tuple[object, ...]]:
    return [
        (
            of.comparison.method,
            of.comparison.baseline,
            of.comparison.role,
            one.gained,
            one.question.record_id,
            one.question.domain,
            one.question.question,
            one.question.right,
            one.baseline,
            one.method,
        )
        for one in of.all
    ]
