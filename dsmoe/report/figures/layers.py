"""What changes from layer to layer: how even the load is, and how alike domains are routed."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dsmoe.report.figures.columns import by_layer, columns, distinct, layer_axis, marker, where
from dsmoe.report.plot import BLUE, GREEN, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def load(table: pa.Table, direction: pa.Table) -> "Figure":
    """Of `load.parquet` and `direction.parquet`: Gini, dead and hot experts, and the shared direction, by layer."""
    from matplotlib import pyplot

    figure, (evenness, idle, shared) = pyplot.subplots(1, 3, figsize=(9.5, 2.9))
    everything = by_layer(where(table, domain=None))
    layers, gini, dead, hot = columns(everything, "layer", "gini", "dead", "hot")
    for domain in distinct(table, "domain"):
        evenness.plot(*columns(by_layer(where(table, domain=domain)), "layer", "gini"), color=GREY, alpha=0.5, lw=0.8)
    evenness.plot(layers, gini, color=BLUE, marker=marker(layers), label="all domains")
    evenness.plot([], [], color=GREY, lw=0.8, label="each domain")
    evenness.set(title="uneven load", ylabel="Gini coefficient", ylim=(0, 1))
    idle.plot(layers, dead, color=ORANGE, marker=marker(layers), label="dead: never chosen", lw=1.2)
    idle.plot(layers, hot, color=BLUE, marker=marker(layers), label="hot", lw=1.2)
    idle.set(title="dead and hot experts", ylabel="experts", ylim=(0, max(1, *dead, *hot) * 1.35))
    idle.yaxis.get_major_locator().set_params(integer=True)
    layers_of, energy, spread, by_chance = columns(
        by_layer(direction), "layer", "mean_energy", "spread", "spread_random"
    )
    shared.plot(layers_of, energy, color=BLUE, marker=marker(layers_of), label="energy in the mean state")
    shared.plot(layers_of, spread, color=GREEN, marker=marker(layers_of), label="routers' spread along it")
    shared.plot(layers_of, by_chance, color=GREY, linestyle="--", label="spread by chance")
    shared.set(title="shared direction", ylabel="share of energy, cosine", ylim=(0, 1.35))
    shared.set_yticks(np.linspace(0, 1, 6))
    for axes in (evenness, idle, shared):
        layer_axis(axes, layers)
        axes.legend(fontsize=8, loc="upper right" if axes is not shared else "upper left", labelspacing=0.3)
    return figure


def depth(table: pa.Table) -> "Figure":
    """Of `overlap.parquet`: how many experts two domains share, layer by layer; mean and range over pairs."""
    from matplotlib import pyplot

    pairs = by_layer(table.filter(pc.field("domain_a") != pc.field("domain_b")))
    layers = np.array(distinct(pairs, "layer"))
    figure, axes = pyplot.subplots(figsize=(5.5, 3.2))
    for value, label, colour in (
        ("jaccard_top_p", "top-p sets", BLUE),
        ("jaccard_top_k", "top-k sets", ORANGE),
    ):
        found = [columns(where(pairs, layer=int(layer)), value)[0] for layer in layers]
        axes.fill_between(layers, [f.min() for f in found], [f.max() for f in found], color=colour, alpha=0.13, lw=0)
        axes.plot(layers, [f.mean() for f in found], color=colour, marker=marker(layers), label=label)
    axes.set(title="experts that two domains share", ylabel="Jaccard index,\nmean and range of pairs", ylim=(0, 1))
    axes.legend(loc="best")
    layer_axis(axes, layers)
    return figure
