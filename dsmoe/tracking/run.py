"""A wandb run of one finished cell: what of its results wandb shows, under which names."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dsmoe.report.cell import cell_figures
from dsmoe.report.varied import flat
from dsmoe.results import CHANCE, POOLED_TASK, Comparison, Results, Row

Table = tuple[list[str], list[list[Any]]]
"""Columns and rows."""
JOB_TYPE = "compare"
LONGEST = 128
"""Letters of a name."""
NAMED = ("model.name", "domain", "discovery.rule", "seed")
STEERED = ("steering.strength", "steering.num_experts", "steering.mode")
"""Keys whose values every name has: the latter where something is steered, as what they come to."""


@dataclass(frozen=True)
class Run:
    """One run. `id` is the cell's, `hash` that of its results; keys of config and summary are flat.

    `figures` draws into a folder, and says where each PNG lies, by its name.
    """

    id: str
    hash: str
    name: str
    group: str
    job_type: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    tables: Mapping[str, Table]
    figures: Callable[[Path], Mapping[str, Path]]


def cell_run(cell: Path, study: str, sweep: Sequence[str]) -> Run:
    """The run of a finished cell's folder; `sweep` are the keys that its study varies.

    Raises InputError where the results cannot be read.
    """
    results = Results.read(cell / "results.json")
    digest = results_hash(cell)
    config = dict(flat(results.config))
    return Run(
        id=cell.name,
        hash=digest,
        name=name(results, sweep),
        group=study,
        job_type=JOB_TYPE,
        config={**config, **({"sweep": list(sweep)} if sweep else {})},
        summary={**_summary(results), "results_hash": digest},
        tables={"rows": _table(results.rows), "comparisons": _table(results.comparisons)},
        figures=partial(cell_figures, cell),
    )


def results_hash(cell: Path) -> str:
    """A hash of a finished cell's results.json, byte for byte."""
    return hashlib.sha256((cell / "results.json").read_bytes()).hexdigest()


def name(results: Results, sweep: Sequence[str]) -> str:
    """Model and target, and what is varied: `tiny chemistry dsmoe strength=4 experts=8 logit seed=0 quantile=0.3`."""
    config = dict(flat(results.config))
    steered = next((row for row in results.rows if row.method in ("dsmoe", "random")), None)
    if steered is None:
        how, shown = list(config["methods"]), [*NAMED, "methods"]
    else:
        how = [
            config["discovery.rule"],
            f"strength={steered.strength:g}",
            f"experts={steered.num_experts}",
            str(steered.mode),
        ]
        shown = [*NAMED, *STEERED]
    more = [f"{key.rpartition('.')[2]}={_word(config.get(key))}" for key in sweep if key not in shown]
    whole = " ".join([config["model.name"], config["domain"], *how, f"seed={config['seed']}", *more])
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 1]}…"


def _word(value: Any) -> str:
    return "+".join(map(_word, value)) if isinstance(value, list) else str(value)


def _summary(results: Results) -> dict[str, float | int | str]:
    """What methods reached on the target and on all others together, and how they compare there."""
    found: dict[str, float | int | str] = {}
    for row in results.rows:
        if row.role == "target" or row.task == POOLED_TASK:
            place = f"{row.role}/{row.method}"
            found |= {f"{place}/value": row.value, f"{place}/n": row.n}
            if row.method != CHANCE:
                found[f"{place}/stderr"] = row.stderr
            if row.strength is not None:
                found[f"{place}/strength"] = row.strength
            if row.routing_changed is not None and row.routing_changed.choices:
                found[f"{place}/routing_changed"] = row.routing_changed.changed / row.routing_changed.choices
    for comparison in results.comparisons:
        if comparison.role == "target" or comparison.task is None:
            place, baseline = f"{comparison.role}/{comparison.method}", comparison.baseline
            for key in ("delta", "ci_low", "ci_high", "p_adjusted", "verdict"):
                found[f"{place}/{key}_{baseline}"] = getattr(comparison, key)
            if comparison.harm is not None:
                found[f"{place}/harm"] = comparison.harm.verdict
    return found


def _table(entries: Sequence[Row] | Sequence[Comparison]) -> Table:
    return table([_spread(asdict(entry)) for entry in entries])


def _spread(entry: dict[str, Any]) -> dict[str, Any]:
    """Without what is nested and absent: its own keys are columns where it is there."""
    return {key: value for key, value in entry.items() if value is not None or key not in ("routing_changed", "harm")}


def table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Entries as rows, what is nested in columns of its own; None where an entry has no such key."""
    flats = [dict(flat(entry)) for entry in entries]
    columns = list(dict.fromkeys(key for entry in flats for key in entry))
    return columns, [[entry.get(column) for column in columns] for entry in flats]
