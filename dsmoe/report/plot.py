"""How every figure is drawn and kept: matplotlib without a screen, equal bytes for equal numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 144


@contextmanager
def style() -> Iterator[None]:
    """Inside the context figures are drawn in the one style of all figures."""
    import matplotlib

    matplotlib.use("svg")
    with matplotlib.rc_context({"svg.hashsalt": "dsmoe", "figure.constrained_layout.use": True, "font.size": 9}):
        yield


def keep(figure: "Figure", path: Path) -> None:
    """Write the figure beside `path` as SVG and PNG, and close it."""
    from matplotlib import pyplot

    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=DPI, metadata={"Software": None})
    pyplot.close(figure)
