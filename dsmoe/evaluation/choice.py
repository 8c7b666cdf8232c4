"""Choosing on dev: of several candidates, the one that is best on the target without harming the other domains."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dsmoe.evaluation.statistics import HARM_MARGIN


@dataclass(frozen=True, slots=True)
class Point:
    """What one candidate reached on dev: its settings, its accuracy on the target, and its gain over base elsewhere.

    `target` is a share of `n` questions; `others` is a difference of shares, of `n_others` questions of all other
    domains together, None where there are none.
    """

    settings: Mapping[str, float]
    target: float
    n: int
    others: float | None
    n_others: int

    @property
    def within_margin(self) -> bool:
        """Whether it loses no more than the margin elsewhere."""
        return self.others is None or self.others >= -HARM_MARGIN

    def to_json(self) -> dict[str, Any]:
        """All of it, and whether it is within the margin."""
        return {**asdict(self), "settings": dict(self.settings), "within_margin": self.within_margin}


def choose(points: Sequence[Point]) -> Point:
    """The best on the target among those within the margin; ties go to the first, so smaller ones stand first.

    Where none is within the margin, the one that loses least elsewhere.
    """
    within = [point for point in points if point.within_margin]
    if not within:
        return max(points, key=lambda point: point.others or 0.0)
    return max(within, key=lambda point: point.target)
