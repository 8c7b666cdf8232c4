"""Where specialisation comes from: one model trained in several ways."""

from typing import TYPE_CHECKING

import pyarrow as pa

from dsmoe.report.figures.columns import by_layer, columns, distinct, layer_axis, legend_of, marker, where
from dsmoe.report.plot import BLUE, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = (
    ("specialisation", "mean divergence, bits", "jsd"),
    ("uneven load", "Gini coefficient", "gini"),
    ("shared direction", "energy in the mean state", "mean_energy"),
)
BATCHES = {"mixed": ("-", "batches of all domains"), "single": ("--", "batches of one domain")}


def origin(table: pa.Table) -> "Figure":
    """Of `origin.parquet`, by layer: specialisation, load and shared direction after each of four trainings."""
    from matplotlib import pyplot

    losses = sorted(distinct(table, "router_loss"), reverse=True)
    figure, grid = pyplot.subplots(1, len(PANELS), figsize=(9.5, 3.4))
    for axes, (title, label, value) in zip(grid, PANELS, strict=True):
        for loss, colour in zip(losses, (BLUE, ORANGE), strict=True):
            for batches, (line, words) in BATCHES.items():
                layers, found = columns(by_layer(where(table, router_loss=loss, batches=batches)), "layer", value)
                axes.plot(
                    layers, found, color=colour, linestyle=line, marker=marker(layers),
                    label=f"balancing loss {loss:g}, {words}",
                )  # fmt: skip
        axes.set(title=title, ylabel=label, ylim=(0, None))
        layer_axis(axes, layers)
    legend_of(figure, grid, ncols=2)
    return figure
