"""A wandb run of one finished cell: what of its results wandb shows, under which names."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsmoe.results import CHANCE, POOLED_TASK, Comparison, Results, Row

Table = tuple[list[str], list[list[Any]]]
"""Columns and rows."""
JOB_TYPE = "compare"


@dataclass(frozen=True)
class Run:
    """One run. `id` is the cell's, `hash` that of its results.json; keys of config and summary are flat."""

    id: str
    hash: str
    name: str
    group: str
    job_type: str
    config: Mapping[str, Any]
    summary: Mapping[str, float | int | str]
    tables: Mapping[str, Table]

    @classmethod
    def of(cls, cell: Path, study: str) -> "Run":
        """The run of a finished cell's folder. Raises InputError where its results cannot be read."""
        results = Results.read(cell / "results.json")
        digest = results_hash(cell)
        return cls(
            id=cell.name,
            hash=digest,
            name=_name(results),
            group=study,
            job_type=JOB_TYPE,
            config=dict(_flat(results.config)),
            summary={**_summary(results), "results_hash": digest},
            tables={"rows": _table(results.rows), "comparisons": _table(results.comparisons)},
        )


def results_hash(cell: Path) -> str:
    """A hash of a finished cell's results.json, byte for byte."""
    return hashlib.sha256((cell / "results.json").read_bytes()).hexdigest()


def _name(results: Results) -> str:
    """Model and target, and what sweeps vary most: `tiny chemistry dsmoe strength=4 experts=8 logit seed=0`."""
    config, methods = results.config, results.config["methods"]
    steered = next((row for row in results.rows if row.method in ("dsmoe", "random")), None)
    if steered is None:
        how = list(methods)
    else:
        how = [
            config["discovery"]["rule"],
            f"strength={steered.strength:g}",
            f"experts={steered.num_experts}",
            str(steered.mode),
        ]
    return " ".join([config["model"]["name"], config["domain"], *how, f"seed={config['seed']}"])


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted key; lists stay whole."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _summary(results: Results) -> dict[str, float | int | str]:
    """What methods reached on the target and on all others together, and how they compare there."""
    found: dict[str, float | int | str] = {}
    for row in results.rows:
        if row.role == "target" or row.task == POOLED_TASK:
            place = f"{row.role}/{row.method}"
            found |= {f"{place}/value": row.value, f"{place}/n": row.n}
            if row.method != CHANCE:
                found[f"{place}/stderr"] = row.stderr
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
    flat = [dict(_flat(_spread(asdict(entry)))) for entry in entries]
    columns = list(dict.fromkeys(key for entry in flat for key in entry))
    return columns, [[entry.get(column) for column in columns] for entry in flat]


def _spread(entry: dict[str, Any]) -> dict[str, Any]:
    """Without what is nested and absent: its own keys are columns where it is there."""
    return {key: value for key, value in entry.items() if value is not None or key not in ("routing_changed", "harm")}
