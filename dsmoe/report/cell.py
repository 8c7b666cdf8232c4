"""The figures of one cell alone, as the report draws them."""

from pathlib import Path

from dsmoe.report.collection import Collection, Entry
from dsmoe.report.curves import dev_curves
from dsmoe.report.differences import tradeoff
from dsmoe.report.specificity import draws, scores
from dsmoe.results import Results


def cell_figures(cell: Path, folder: Path) -> dict[str, Path]:
    """Draw what a finished cell has data for into a folder; where each PNG lies, by the figure's name.

    Gain on the target against cost elsewhere, what was chosen on dev, dsmoe among random draws, and experts' scores.
    """
    entry = Entry(cell, Results.read(cell / "results.json"), varied={}, adjusted={})
    alone = Collection((entry,))
    found = {}
    for figure in (*tradeoff(alone), *dev_curves(alone), *draws(entry), *scores(entry)):
        figure.write(folder)
        found[figure.name.removesuffix(f"-{entry.id[:8]}")] = folder / f"{figure.name}.png"
    return found
