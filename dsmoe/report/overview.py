"""The overview: a row a cell, and a row a primary comparison, as they stand on the page and in files for papers."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dsmoe.report.collection import Collection, Entry, primary, shown
from dsmoe.report.shown import interval, p_text, percent, points
from dsmoe.report.table import pipes

Cell = tuple[str, float | str]
"""What a table shows, and what it is sorted by."""
FACTS = ("model", "questions", "strength", "experts", "mode")
"""Columns that are left out where all cells agree."""


@dataclass(frozen=True)
class Overview:
    """Columns, and lines of cells."""

    columns: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]

    def markdown(self) -> str:
        """The table in GitHub's Markdown, with a newline at the end."""
        return pipes(self.columns, [[text for text, _ in line] for line in self.lines]) + "\n"


def overview(collection: Collection) -> Overview:
    """A line a cell: what it is, and how dsmoe stands there against base, fine-tuning and another domain's experts.

    A column that says the same of all cells, or nothing, is left out.
    """
    settings = list(dict.fromkeys(key for entry in collection.entries for key in entry.varied))
    lines = [tuple(_line(entry, settings)) for entry in collection.entries]
    kept = [
        at
        for at, (name, text, _) in enumerate(lines[0])
        if name not in FACTS or any(line[at][1] != text for line in lines)
    ]
    kept = [at for at in kept if any(line[at][1] for line in lines)]
    return Overview(
        tuple(lines[0][at][0] for at in kept), tuple(tuple((line[at][1], line[at][2]) for at in kept) for line in lines)
    )


def csv_of(collection: Collection) -> str:
    """Every primary comparison in full precision, a line each: whose it is, and both adjusted p values."""
    lines = [
        {
            "cell": entry.id,
            "model": entry.group[0],
            "target": entry.group[1],
            "questions": entry.group[2],
            **{key: shown(value) for key, value in entry.varied.items()},
            **_settings(entry),
            **{
                name: getattr(one, name)
                for name in ("method", "baseline", "n", "delta", "ci_low", "ci_high", "p_value")
            },
            "p_adjusted_in_cell": one.p_adjusted,
            "p_adjusted_in_report": entry.adjusted[one.baseline],
            "verdict_in_cell": one.verdict,
            "verdict_in_report": entry.verdict(one.baseline),
        }
        for entry in collection.entries
        for one in primary(entry.results)
    ]
    return csv_text(list(lines[0]), [list(line.values()) for line in lines]) if lines else ""


def csv_text(columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A header and lines as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([columns, *lines])
    return file.getvalue()


def _settings(entry: Entry) -> dict[str, Any]:
    row = entry.row("dsmoe", "target")
    return {name: getattr(row, name, None) for name in ("strength", "num_experts", "mode")}


def _line(entry: Entry, settings: Sequence[str]) -> Iterator[tuple[str, str, float | str]]:
    """Column, text and what it is sorted by."""
    model, domain, questions = entry.group
    model, domain, questions = entry.group
    yield "cell", entry.id[:8], entry.id
    yield "model", model, model
    yield "target", domain, domain
    yield "questions", questions, questions
    for key in settings:
        yield key.removeprefix("steering."), shown(entry.varied[key]), _sorted_by(entry.varied[key])
    for name, value in _settings(entry).items():
        if f"steering.{name}" not in settings:
            yield name.removeprefix("num_"), "" if value is None else shown(value), _sorted_by(value)
    for method in ("base", "dsmoe"):
        row = entry.row(method, "target")
        yield f"{method} %", percent(row.value) if row else "", row.value if row else ""
    for baseline in ("base", "sft", "other_domain"):
        yield from _against(entry, baseline)
    elsewhere = entry.comparison("dsmoe", "base", "non_target")
    yield "Δ others", points(elsewhere.delta) if elsewhere else "", elsewhere.delta if elsewhere else ""
    harm = elsewhere.harm.verdict if elsewhere and elsewhere.harm else ""
    yield "harm", harm, harm


def _against(entry: Entry, baseline: str) -> Iterator[tuple[str, str, float | str]]:
    found, verdict = entry.comparison("dsmoe", baseline), entry.verdict(baseline)
    name = baseline.replace("_", " ")
    names = [f"Δ {name}", *(("95%", "p, cell", "p, report") if baseline == "base" else ()), f"verdict, {name}"]
    if found is None or verdict is None:
        yield from ((one, "", "") for one in names)
        return
    yield names[0], points(found.delta), found.delta
    if baseline == "base":
        yield "95%", interval(found), found.ci_low
        yield "p, cell", p_text(found.p_adjusted, ""), found.p_adjusted
        yield "p, report", p_text(entry.adjusted[baseline], ""), entry.adjusted[baseline]
    yield names[-1], verdict, verdict


def _sorted_by(value: Any) -> float | str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return "" if value is None else shown(value)
