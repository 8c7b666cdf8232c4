"""Tables as arrays, and axes as all figures have them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Column = NDArray[Any]
MARKED = 16
"""Layers up to which each has a marker."""


def columns(table: pa.Table, *names: str) -> list[Column]:
    """Columns as arrays; null numbers are nan."""
    return [table[name].to_numpy() for name in names]


def where(table: pa.Table, **values: Any) -> pa.Table:
    """The rows whose columns have these values, None for null."""
    for name, value in values.items():
        table = table.filter(pc.is_null(pc.field(name)) if value is None else pc.field(name) == value)
    return table


def by_layer(table: pa.Table) -> pa.Table:
    """The rows of single layers, in the order of the layers."""
    return table.filter(pc.is_valid(pc.field("layer"))).sort_by("layer")


def distinct(table: pa.Table, name: str) -> list[Any]:
    """The values of a column, sorted, without null."""
    return sorted({value for value in table[name].to_pylist() if value is not None})


def pivot(table: pa.Table, rows: str, across: str, value: str) -> tuple[list[Any], list[Any], Column]:
    """The labels of rows and columns, and the values there; nan where there is none."""
    down, over = distinct(table, rows), distinct(table, across)
    cells = np.full((len(down), len(over)), np.nan)
    at = [np.searchsorted(labels, table[name].to_pylist()) for labels, name in ((down, rows), (over, across))]
    cells[at[0], at[1]] = table[value].to_numpy()
    return down, over, cells


def layer_axis(axes: "Axes", layers: Column) -> None:
    """Whole layers along x, and a little room beside them."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    room = 0.04 * max(1, np.max(layers) - np.min(layers)) + 0.05
    axes.set(xlabel="layer", xlim=(np.min(layers) - room, np.max(layers) + room))


def marker(layers: Column) -> str:
    """A marker for each layer where there are few."""
    return "o" if len(layers) <= MARKED else ""


def legend_of(figure: "Figure", grid: "Iterable[Axes]", ncols: int = 4) -> None:
    """One legend above all, of what any of the axes show."""
    shown = {label: line for axes in grid for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=ncols, fontsize=8)
