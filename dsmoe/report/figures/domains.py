"""How domains differ: each from all others against two nulls, and each from each."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dsmoe.report.figures.columns import (
    Column,
    by_layer,
    columns,
    distinct,
    layer_axis,
    legend_of,
    marker,
    pivot,
    where,
)
from dsmoe.report.plot import BLUE, GREY, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED = 14
"""Domains up to which every cell of a matrix has its number."""
NULLS = (
    ("domain labels permuted", "jsd", "labels"),
    ("routers at random, tokens of all domains", "shared_jsd", "routers"),
)


def existence(table: pa.Table) -> "Figure":
    """Of `existence.parquet`: what is observed and each null's mean and 95% quantile, by domain and by layer."""
    from matplotlib import pyplot

    domains = distinct(table, "domain")
    figure, grid = pyplot.subplots(
        2, 2, figsize=(9, 2.9 + 0.24 * len(domains)), height_ratios=[0.24 * len(domains), 1.9], sharey="row"
    )
    means = where(table, layer=None).sort_by([("domain", "descending")])
    for column, (title, observed, null) in enumerate(NULLS):
        _by_domain(grid[0, column], means, observed, null)
        grid[0, column].set_title(f"against {title}")
        _by_layer(grid[1, column], by_layer(table), observed, null)
    grid[1, 0].set_ylabel("bits, mean and range\nof domains")
    legend_of(figure, grid.flat)
    return figure


def _by_domain(axes: "Axes", means: pa.Table, observed: str, null: str) -> None:
    domain, found, mean, highest = columns(means, "domain", observed, f"{null}_mean", f"{null}_q95")
    at = np.arange(len(domain))
    axes.hlines(at, mean, highest, color=GREY, linewidth=5, alpha=0.55, label="null: mean to 95% quantile")
    beaten = found > highest
    axes.plot(found[beaten], at[beaten], "o", color=BLUE, label="observed, above that")
    if not beaten.all():
        axes.plot(found[~beaten], at[~beaten], "o", color=BLUE, markerfacecolor=PAPER, label="observed, not above")
    axes.set_yticks(at, domain)
    axes.set_ylim(-0.6, len(domain) - 0.4)
    axes.set(xlabel="divergence from all other domains, bits", xlim=(0, None))
    axes.grid(axis="y", color=GREY, alpha=0.2)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=6)


def _by_layer(axes: "Axes", table: pa.Table, observed: str, null: str) -> None:
    _, layers, found = pivot(table, "domain", "layer", observed)
    highest = pivot(table, "domain", "layer", f"{null}_q95")[2]
    if not np.isnan(found).all():
        axes.fill_between(layers, np.nanmin(found, axis=0), np.nanmax(found, axis=0), color=BLUE, alpha=0.15, lw=0)
        axes.plot(layers, np.nanmean(found, axis=0), marker=marker(np.array(layers)), color=BLUE)
        axes.plot(layers, np.nanmean(highest, axis=0), linestyle="--", color=GREY, label="null: 95% quantile, mean")
    layer_axis(axes, np.array(layers))
    axes.set_ylim(0, None)


def overlap(table: pa.Table) -> "Figure":
    """Of `overlap.parquet`, over all layers: the Jaccard index of each two domains' top-p sets; their JS distance."""
    from matplotlib import pyplot

    domains = sorted({*distinct(table, "domain_a"), *distinct(table, "domain_b")})
    side = 1.2 + 0.3 * max(len(domains), 6)
    figure, grid = pyplot.subplots(1, 2, figsize=(2 * side + 1.6, side + 0.4), layout="compressed")
    for axes, title, value, colours in zip(
        grid,
        ("Jaccard index of top-p sets", "Jensen–Shannon distance"),
        ("jaccard_top_p", "js_distance"),
        ("Blues", "Oranges"),
        strict=True,
    ):
        image = _matrix(axes, _symmetric(where(table, layer=None), domains, value), domains, colours)
        axes.set_title(title)
        bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02)
        bar.outline.set_visible(False)
    grid[1].set_yticklabels([])
    return figure


def _symmetric(table: pa.Table, domains: list[str], value: str) -> Column:
    """The value of each two domains, in whichever order the table names them; nan on the diagonal."""
    cells = np.full((len(domains), len(domains)), np.nan)
    one, other = (np.searchsorted(domains, table[name].to_pylist()) for name in ("domain_a", "domain_b"))
    cells[one, other] = cells[other, one] = table[value].to_numpy()
    np.fill_diagonal(cells, np.nan)
    return cells


def _matrix(axes: "Axes", cells: Column, domains: list[str], colours: str) -> Any:
    image = axes.imshow(cells, cmap=colours)
    axes.set_facecolor("#DDDDDD")
    axes.set_xticks(range(len(domains)), domains, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(domains)), domains)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(domains) <= NUMBERED:
        darkest = float(np.nanmin(cells) + 0.6 * np.ptp(cells[~np.isnan(cells)]))
        for row, column in zip(*np.nonzero(~np.isnan(cells)), strict=True):
            value = float(cells[row, column])
            colour = "white" if value > darkest else "#111111"  # On a cell, whatever the page.
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
    return image
