"""Which experts each domain prefers."""

import math
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dsmoe.report.figures.columns import distinct, pivot, where

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ACROSS = 3
WIDTH = 9.0


def usage(table: pa.Table) -> "Figure":
    """Of `usage.parquet`, a panel a domain: P(e|D) − P(e|rest) by layer and expert, in percentage points."""
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    domains, layers = distinct(table, "domain"), distinct(table, "layer")
    counts_DLE = np.array([pivot(where(table, domain=one), "layer", "expert", "tokens")[2] for one in domains])
    rest_DLE = counts_DLE.sum(axis=0) - counts_DLE
    points_DLE = 100 * (_shares(counts_DLE) - _shares(rest_DLE))
    # A few experts that stand out shall not bleach all the others.
    limit = max(float(np.nanquantile(np.abs(points_DLE), 0.998)), 1e-9)

    across = min(MOST_ACROSS, len(domains))
    down = math.ceil(len(domains) / across)
    tall = float(np.clip(WIDTH / across * len(layers) / points_DLE.shape[2], 0.6, 2.6))
    figure, grid = pyplot.subplots(
        down, across, figsize=(WIDTH, down * (tall + 0.3) + 1.0), sharex=True, sharey=True, squeeze=False
    )
    for axes in grid.flat[len(domains) :]:
        axes.set_axis_off()
    for axes, domain, points_LE in zip(grid.flat, domains, points_DLE, strict=False):
        image = axes.imshow(
            points_LE, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest", origin="lower"
        )
        axes.set_title(domain)
        axes.tick_params(length=2)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.yaxis.set_major_formatter(lambda at, _: str(layers[int(at)]) if 0 <= at < len(layers) else "")
    for axes in grid[:, 0]:
        axes.set_ylabel("layer")
    for axes in grid[-1]:
        axes.set_xlabel("expert")
    bar = figure.colorbar(image, ax=grid, extend="both", location="bottom", shrink=0.45, aspect=40)
    bar.set_label("share of choices, domain − all others, in percentage points")
    bar.outline.set_visible(False)
    return figure


def _shares(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts / counts.sum(axis=-1, keepdims=True))
