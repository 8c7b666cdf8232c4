"""Several seeds of one study: what each method reaches on average, and how far seeds lie apart."""

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from dsmoe.report.table import grid
from dsmoe.results import CHANCE, POOLED_TASK, Results

COLUMNS = ("method", "target", "sd", "min – max", "Δ base", "sd", "verdicts", "others", "sd")


def by_seed(results: Sequence[Results]) -> list[list[Results]]:
    """Those results, two or more at a time, whose configs differ in nothing but seeds."""
    alike: dict[str, list[Results]] = {}
    for one in results:
        alike.setdefault(json.dumps(_seedless(one.config), sort_keys=True), []).append(one)
    return [those for those in alike.values() if len(those) > 1]


def seeds_table(results: Sequence[Results]) -> Table:
    """Means over seeds, standard deviations between seeds, and each verdict against base as often as it was reached.

    Percent and points. The spread between seeds is that of whole studies: other models, draws or adapters, not other
    questions.
    """
    methods = [row.method for row in results[0].rows if row.role == "target"]
    title = f"{len(results)} seeds: means, standard deviations between seeds"
    return grid(title, COLUMNS, [_line(method, results) for method in methods])


def _line(method: str, results: Sequence[Results]) -> list[str]:
    target = [row.value for one in results for row in one.rows if row.method == method and row.role == "target"]
    others = [row.value for one in results for row in one.rows if row.method == method and row.task == POOLED_TASK]
    against_base = [
        one
        for result in results
        for one in result.comparisons
        if (one.method, one.baseline, one.role) == (method, "base", "target")
    ]
    deltas = [one.delta for one in against_base]
    verdicts = Counter(one.verdict for one in against_base)
    spread = f"{100 * min(target):.1f} – {100 * max(target):.1f}" if method != CHANCE else ""
    return [
        method,
        *_mean_and_deviation(target),
        spread,
        *_mean_and_deviation(deltas, "+"),
        ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())),
        *_mean_and_deviation(others),
    ]


def _mean_and_deviation(values: Sequence[float], sign: str = "") -> list[str]:
    if not values:
        return ["", ""]
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return [f"{100 * mean:{sign}.1f}".replace("-", "\N{MINUS SIGN}"), f"{100 * deviation:.1f}"]


def _seedless(config: dict[str, Any]) -> dict[str, Any]:
    """The config without any key named seed."""
    return {
        key: _seedless(value) if isinstance(value, dict) else value for key, value in config.items() if key != "seed"
    }
