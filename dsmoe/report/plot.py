"""How every figure is drawn and kept: without a screen, equal bytes for equal numbers, for pages light and dark."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 144
INK, LINE, PAPER = "#24292f", "#c9d1d9", "#fffffe"
"""Text, quiet lines, and what is to look empty; where a page is dark, these three turn light or dark."""
DARK = {INK: "#e6edf3", LINE: "#444c56", PAPER: "#12161b"}
BLUE, ORANGE, GREEN, PINK, GREY = "#3f87c9", "#d67f22", "#2f9e77", "#c268a6", "#8d939c"
COLOURS = (BLUE, ORANGE, GREEN, PINK, GREY, "#b59b1f", "#7d6fd0", "#c0584a")
"""To be told apart by people of all kinds of colour vision, on light pages and dark ones (after Okabe and Ito)."""
FONTS = 'system-ui, "Segoe UI", Helvetica, Arial, sans-serif'


@contextmanager
def style() -> Iterator[None]:
    """Inside the context figures are drawn in the one style of all figures."""
    import matplotlib
    from cycler import cycler

    matplotlib.use("svg")
    settings: dict[str, Any] = {
        "svg.hashsalt": "dsmoe",
        "svg.fonttype": "none",
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.h_pad": 0.06,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.5,
        "text.parse_math": False,  # Names may have dollars in them.
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "legend.frameon": False,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor"), INK
        ),
        **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), LINE),
    }
    with matplotlib.rc_context(settings):
        yield


def keep(figure: "Figure", path: Path) -> None:
    """Write the figure beside `path` as SVG, which dark pages show in light ink, and as PNG on white; and close it."""
    from matplotlib import pyplot
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    # savefig would lay it out and draw it twice for each file, which takes most of the time.
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    drawing = path.with_suffix(".svg")
    FigureCanvasSVG(figure).print_svg(drawing, metadata={"Date": None})
    drawing.write_text(_adaptive(drawing.read_text(encoding="utf-8")), encoding="utf-8")
    figure.set(dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure).print_png(path.with_suffix(".png"), metadata={"Software": None})
    pyplot.close(figure)


def _adaptive(drawing: str) -> str:
    """An SVG that follows the reader's colour scheme and takes the reader's own font."""
    turned = "".join(
        f'[style*="{what}: {light}"]{{{what}: {dark} !important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    rules = f"text{{font-family: {FONTS} !important}}@media (prefers-color-scheme: dark){{{turned}}}"
    return drawing.replace("</style>", f"{rules}</style>", 1)
