"""A collection: finished cells looked at together, each with its primary comparisons adjusted over all of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dsmoe.errors import InputError
from dsmoe.evaluation.multiplicity import SIGNIFICANCE, holm
from dsmoe.report.varied import flat, varied
from dsmoe.results import POOLED_TASK, Comparison, Results, Row, Verdict
from dsmoe.stage import is_finished

Key = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One finished cell: what it found, and what tells it apart from the others.

    `adjusted` holds, for each primary comparison's baseline, its p value after Holm over all primary comparisons of the
    collection; `varied` the settings in which the cells differ, with this cell's values.
    """

    folder: Path
    results: Results
    varied: Mapping[str, Any]
    adjusted: Mapping[str, float]

    @property
    def id(self) -> str:
        """The cell's id, whole."""
        return self.results.cell

    @property
    def group(self) -> Key:
        """Model, target and questions: cells that answer one question."""
        config = self.results.config
        benchmark, dataset = config["benchmark"], config["dataset"]
        origin = benchmark if benchmark["source"] is not None else dataset
        return config["model"]["name"], config["domain"], origin["source"]

    @property
    def label(self) -> str:
        """What the cell varies, in a few words; empty where it is alone."""
        return self.label_of(self.varied)

    def label_of(self, keys: Iterable[str]) -> str:
        """The values of some of the varied settings, in a few words."""
        return ", ".join(f"{key.rpartition('.')[2].replace('_', ' ')} {shown(self.varied[key])}" for key in keys)

    @property
    def name(self) -> str:
        """Model, target and label."""
        model, domain, _ = self.group
        return " · ".join(filter(None, (model, domain, self.label)))

    def row(self, method: str, role: str) -> Row | None:
        """A method's row on the target, or on all others together."""
        rows = [row for row in self.results.rows if row.method == method and row.role == role]
        return next((row for row in rows if role == "target" or row.task == POOLED_TASK), None)

    def comparison(self, method: str, baseline: str, role: str = "target") -> Comparison | None:
        """How a method stands against a baseline on the target, or on all others together."""
        pairs = [
            one for one in self.results.comparisons if (one.method, one.baseline, one.role) == (method, baseline, role)
        ]
        return next((one for one in pairs if role == "target" or one.task is None), None)

    def verdict(self, baseline: str) -> Verdict | None:
        """The verdict on dsmoe against a baseline by the p value that is adjusted over the collection."""
        found = self.comparison("dsmoe", baseline)
        if found is None or baseline not in self.adjusted:
            return None
        if self.adjusted[baseline] >= SIGNIFICANCE or found.delta == 0:
            return "no evidence"
        return "better" if found.delta > 0 else "worse"


@dataclass(frozen=True)
class Collection:
    """Entries in an order that does not depend on what they found: by model, target and varied settings."""

    entries: tuple[Entry, ...]

    @classmethod
    def read(cls, folders: Sequence[Path]) -> "Collection":
        """The finished cells of studies, each once. Raises InputError where a study has none, or one cannot be read."""
        cells = {cell.name: cell for folder in folders for cell in _finished(folder)}
        found = {cell: Results.read(cell / "results.json") for cell in cells.values()}
        settings = _varied([results.config for results in found.values()])
        adjusted = _adjusted(found)
        entries = [
            Entry(cell, results, settings[number], adjusted[cell])
            for number, (cell, results) in enumerate(found.items())
        ]
        return cls(tuple(sorted(entries, key=lambda one: (one.group, *map(_sortable, one.varied.values()), one.id))))

    @cached_property
    def groups(self) -> dict[Key, list[Entry]]:
        """Entries by the question that they answer."""
        groups: dict[Key, list[Entry]] = {}
        for entry in self.entries:
            groups.setdefault(entry.group, []).append(entry)
        return groups

    @property
    def tests(self) -> int:
        """How many primary comparisons there are, over which p values are adjusted."""
        return sum(len(entry.adjusted) for entry in self.entries)


def primary(results: Results) -> list[Comparison]:
    """The comparisons of the family that is fixed beforehand."""
    return [one for one in results.comparisons if one.family == "primary"]


def differing(entries: Sequence[Entry]) -> list[str]:
    """Of what varies over the collection, the settings in which these entries differ too."""
    keys = entries[0].varied if entries else {}
    return [key for key in keys if len({repr(entry.varied[key]) for entry in entries}) > 1]


def shown(value: Any) -> str:
    """A setting's value in a few letters."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return "+".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _finished(folder: Path) -> list[Path]:
    cells = [path.parent for path in sorted(folder.glob("*/status.json")) if is_finished(path.parent)]
    if not cells:
        raise InputError(f"{folder}: holds no finished cell; study=NAME and paths.results=FOLDER name others")
    return cells


def _adjusted(found: Mapping[Path, Results]) -> dict[Path, dict[str, float]]:
    """For each cell, its primary comparisons' p values by baseline, adjusted over those of all cells."""
    tests = [(cell, one.baseline, one.p_value) for cell, results in found.items() for one in primary(results)]
    adjusted: dict[Path, dict[str, float]] = {cell: {} for cell in found}
    for (cell, baseline, _), p in zip(tests, holm([p for *_, p in tests]), strict=True):
        adjusted[cell][baseline] = p
    return adjusted


def _varied(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each config, its values of the settings in which configs differ; what an entry shows anyway left out."""
    flats = [dict(flat(config)) for config in configs]
    differ = [key for key in varied(configs) if key not in ("model.name", "domain", "methods")]
    return [{key: one.get(key) for key in differ} for one in flats]


def _sortable(value: Any) -> tuple[int, float, str]:
    """Numbers before all else, each kind in its own order."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))
