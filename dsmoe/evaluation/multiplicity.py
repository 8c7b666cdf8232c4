"""Many tests at once: the level of significance, and p values adjusted so that it holds for all of them."""

from collections.abc import Sequence

SIGNIFICANCE = 0.05


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, in the order given, at most 1. Holm (1979), Scand. J. Statist. 6:65."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
