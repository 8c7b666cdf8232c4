"""Why tokens go where they go: hidden states against routing, prompts against what is written after them."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dsmoe.report.figures.columns import Column, by_layer, columns, distinct, layer_axis, legend_of, marker, where
from dsmoe.report.plot import BLUE, GREEN, GREY, ORANGE, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = (("token", "pairs of tokens"), ("sequence", "pairs of texts"))
FEWEST = 20
"""Pairs from which a bin's mean is shown."""
FEW = 6
"""Layers up to which each is told apart by eye."""
SIGNIFICANT = 0.05


def similarity(table: pa.Table) -> "Figure":
    """Of `similarity.parquet`, by layer: the correlation of routing with hidden states, its null, what domains add."""
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    for axes, (level, title) in zip(grid, LEVELS, strict=True):
        layers, found, null, p, partial = columns(
            by_layer(where(table, level=level)), "layer", "correlation", "null_q95", "p", "same_domain_partial"
        )
        axes.fill_between(layers, 0, null, color=GREY, alpha=0.3, lw=0, label="by chance: up to the 95% quantile")
        _tested(axes, layers, found, p, BLUE, "choices with hidden states")
        axes.plot(
            layers, partial, color=ORANGE, linestyle="--", marker=marker(layers),
            label="choices with domain, at equal hidden states",
        )  # fmt: skip
        axes.axhline(0, color=GREY, lw=0.8)
        axes.set(title=title)
        layer_axis(axes, layers)
    grid[0].set_ylabel("correlation over pairs")
    legend_of(figure, grid)
    return figure


def pairs(table: pa.Table) -> "Figure":
    """Of `pairs.parquet`: the mean overlap of choices over the cosine of hidden states, a line a layer."""
    from matplotlib import colormaps, pyplot
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    layers = distinct(table, "layer")
    # The end of the map is too pale for lines.
    dark = ListedColormap(colormaps["viridis"](np.linspace(0, 0.85, 256)))
    scale = ScalarMappable(Normalize(layers[0], max(layers[-1], layers[0] + 1)), dark)
    marks = "o" if len(layers) <= FEW else ""
    figure, grid = pyplot.subplots(1, 2, figsize=(9, 3.3), sharey=True)
    for axes, (level, title) in zip(grid, LEVELS, strict=True):
        of_level = where(table, level=level).filter(pc.field("pairs") >= FEWEST)
        for layer in layers:
            cosine, overlap = columns(where(of_level, layer=layer).sort_by("cosine_bin"), "cosine_bin", "overlap_mean")
            axes.plot(cosine, overlap, color=scale.to_rgba(layer), marker=marks, ms=3, lw=1.6 if marks else 0.9)
        axes.set(title=title, xlabel="cosine of hidden states at the router")
        axes.grid(color=GREY, alpha=0.15)
    grid[0].set(ylabel="mean overlap of choices", ylim=(0, 1.02))
    bar = figure.colorbar(scale, ax=grid, pad=0.015, ticks=layers if marks else None)
    bar.set_label("layer")
    bar.outline.set_visible(False)
    return figure


def rollout(table: pa.Table) -> "Figure":
    """Of `rollout.parquet`, by layer: how a prompt's choices go with those of continuations, its own and others."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.8, 3.3))
    layers, own, same, other, p = columns(by_layer(table), "layer", "own", "same_domain", "other_domain", "p")
    _tested(axes, layers, own, p, BLUE, "its own")
    axes.plot(layers, same, color=GREEN, marker=marker(layers), label="another of its domain")
    axes.plot(layers, other, color=ORANGE, marker=marker(layers), label="one of another domain")
    axes.set(title="a prompt and a continuation", ylabel="cosine of visit counts", ylim=(0, 1.02))
    layer_axis(axes, layers)
    legend_of(figure, [axes])
    return figure


def _tested(axes: "Axes", layers: Column, values: Column, p: Column, colour: str, label: str) -> None:
    """A line whose points are hollow where p is not below 0.05."""
    axes.plot(layers, values, color=colour, marker=marker(layers), label=label)
    missed = ~(p < SIGNIFICANT) & ~np.isnan(values)
    if missed.any():
        axes.plot(layers[missed], values[missed], "o", color=colour, markerfacecolor=PAPER, label="p ≥ 0.05")
