"""A figure of the report: how it is drawn, what it says in words, and the numbers that it shows."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsmoe.report.overview import csv_text
from dsmoe.report.plot import COLOURS, INK, keep, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

LOOKS = {
    "base": (COLOURS[4], "s"),
    "sft": (COLOURS[1], "^"),
    "dsmoe": (COLOURS[0], "o"),
    "random": (COLOURS[5], "x"),
    "other_domain": (COLOURS[3], "v"),
    "oracle": (COLOURS[2], "D"),
}
"""Colour and marker of each method, the same in all figures."""
OTHER_LOOKS = ((COLOURS[6], "P"), (COLOURS[7], "*"))
PANELS = 9
"""Most panels of one figure."""
WIDEST = 10.8
"""Inches."""
LETTERS = 48
"""Most letters of a line of a title or a name."""


@dataclass(frozen=True)
class Figure:
    """One figure. `alt` says what it shows to those who do not see it; `lines` are its numbers, under `columns`."""

    name: str
    title: str
    alt: str
    columns: Sequence[str]
    lines: Sequence[Sequence[Any]]
    draw: Callable[[], "Drawing"]

    def write(self, folder: Path) -> None:
        """Write it below `folder` as SVG and PNG, with its numbers as CSV."""
        with style():
            keep(self.draw(), folder / self.name)
        (folder / f"{self.name}.csv").write_text(csv_text(self.columns, self.lines), encoding="utf-8")


def first(count: int) -> str:
    """What a title says where there are more panels than are shown."""
    return f" The first {PANELS} of {count} panels." if count > PANELS else ""


def wrapped(words: str) -> str:
    """The words in lines that are no longer than a panel is wide."""
    return textwrap.fill(words, LETTERS)


def look(method: str) -> tuple[str, str]:
    """Colour and marker of a method."""
    return LOOKS.get(method) or OTHER_LOOKS[sum(map(ord, method)) % len(OTHER_LOOKS)]


def panels(count: int, width: float = 4.8, height: float = 2.8, columns: int = 3) -> "tuple[Drawing, list[Axes]]":
    """A figure of as many axes, side by side and below one another; sizes in inches, each."""
    from matplotlib import pyplot

    across = min(count, columns)
    down = -(-count // across)
    drawing, grid = pyplot.subplots(down, across, figsize=(min(width * across, WIDEST), height * down), squeeze=False)
    axes = [one for row in grid for one in row]
    for spare in axes[count:]:
        spare.set_axis_off()
    for one in axes[:count]:
        one.locator_params(nbins=5)  # Labels of ticks take most of the time that a figure takes.
    return drawing, axes[:count]


def legend(drawing: "Drawing", axes: "Sequence[Axes]") -> None:
    """One legend below all panels, with the first line of each label."""
    handles: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        columns = min(len(handles), int(drawing.get_figwidth() / 1.5))
        drawing.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)


def zero(axes: "Axes", vertical: bool = False) -> None:
    """A line at no difference."""
    (axes.axvline if vertical else axes.axhline)(0, color=INK, linewidth=0.8, zorder=0)
