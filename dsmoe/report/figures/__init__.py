"""The figures of an analysis, each drawn from the tables that lie beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from dsmoe.report.figures.domains import existence, overlap
from dsmoe.report.figures.experts import usage
from dsmoe.report.figures.layers import depth, load
from dsmoe.report.figures.training import origin
from dsmoe.report.figures.why import pairs, rollout, similarity
from dsmoe.report.plot import keep, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: dict[str, tuple[tuple[str, ...], "Callable[..., Figure]"]] = {
    "usage": (("usage",), usage),
    "existence": (("existence",), existence),
    "overlap": (("overlap",), overlap),
    "depth": (("overlap",), depth),
    "load": (("load", "direction"), load),
    "similarity": (("similarity",), similarity),
    "pairs": (("pairs",), pairs),
    "rollout": (("rollout",), rollout),
    "origin": (("origin",), origin),
}
"""Every figure's name, the tables that it shows, and what draws it."""


def draw(folder: Path) -> list[Path]:
    """Write every figure whose tables are all in the folder, as NAME.svg and NAME.png; the paths of the SVGs.

    A table without rows, where there was nothing to compare, has no figure.
    """
    drawn = []
    for name, (tables, figure) in FIGURES.items():
        paths = [folder / f"{table}.parquet" for table in tables]
        found = [pq.read_table(path) for path in paths if path.exists()]
        if len(found) == len(tables) and all(table.num_rows for table in found):
            with style():
                keep(figure(*found), folder / name)
            drawn.append(folder / f"{name}.svg")
    return drawn
