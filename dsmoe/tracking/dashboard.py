"""What a study's dashboard shows: every cell's primary comparisons as a table, among wandb's own panels."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter

from dsmoe.results import Results

VERSION = 1
"""Raise it when dsmoe.tracking.views would make other panels of the same."""
MOST_CELLS = 100
MINUS = "\N{MINUS SIGN}"
COLUMNS = ("cell", "target", "dsmoe against", "Δ, points", "95% interval", "p (Holm)", "verdict")


@dataclass(frozen=True)
class Dashboard:
    """A study's dashboard: `table` is Markdown, `methods` those that any cell compares."""

    study: str
    methods: Sequence[str]
    table: str

    @classmethod
    def of(cls, study: str, cells: Sequence[tuple[str, Results]]) -> "Dashboard":
        """The dashboard of a study's finished cells, each with its run's name."""
        methods = dict.fromkeys(method for _, results in cells for method in results.config["methods"])
        lines = [
            line for name, results in sorted(cells, key=itemgetter(0))[:MOST_CELLS] for line in _lines(name, results)
        ]
        left_out = len(cells) - MOST_CELLS
        more = [f"\n{left_out} more cells are not in this table; the panels have them."] if left_out > 0 else []
        table = "\n".join([*(f"| {' | '.join(line)} |" for line in (COLUMNS, ["---"] * len(COLUMNS), *lines)), *more])
        return cls(study, tuple(methods), table)

    @property
    def hash(self) -> str:
        """A hash of all that it shows."""
        return hashlib.sha256(json.dumps([VERSION, asdict(self)]).encode()).hexdigest()


def _lines(name: str, results: Results) -> list[list[str]]:
    return [
        [
            name.replace("|", "\\|"),
            results.config["domain"].replace("|", "\\|"),
            one.baseline,
            f"{100 * one.delta:+.1f}".replace("-", MINUS),
            f"{100 * one.ci_low:.1f} to {100 * one.ci_high:.1f}".replace("-", MINUS),
            f"{one.p_adjusted:.2g}",
            one.verdict,
        ]
        for one in results.comparisons
        if one.family == "primary"
    ]
