"""How every figure is drawn and kept: matplotlib without a screen, equal bytes for equal numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 144
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
"""Colours that people with any kind of colour vision tell apart (Okabe and Ito 2008)."""
GREY, INK = "#9A9A9A", "#333333"
STYLE = {
    "svg.hashsalt": "dsmoe",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.06,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


@contextmanager
def style() -> Iterator[None]:
    """Inside the context figures are drawn in the one style of all figures."""
    import matplotlib
    from cycler import cycler

    matplotlib.use("svg")
    with matplotlib.rc_context({**STYLE, "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PURPLE, SKY])}):
        yield


def keep(figure: "Figure", path: Path) -> None:
    """Write the figure beside `path` as SVG and PNG, and close it."""
    from matplotlib import pyplot

    # Laid out once for both.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=DPI, metadata={"Software": None})
    pyplot.close(figure)
