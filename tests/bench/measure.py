"""What is measured: seconds, or bytes, of ours and of an anchor, taken side by side in one run."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """A quantity of ours beside its anchor's, a ratio a round.

    `what` says what the numbers are: ours / anchor, anchor / ours, or, without an anchor, plain numbers of `unit`.
    `reach` is what we want them to be, in words.
    """

    what: str
    anchor: str
    ratios: Sequence[float]
    reach: str = ""
    unit: str = "×"

    @property
    def median(self) -> float:
        """The middle of all rounds."""
        return statistics.median(self.ratios)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            "what": self.what,
            "anchor": self.anchor,
            "median": self.median,
            "min": min(self.ratios),
            "max": max(self.ratios),
            "n": len(self.ratios),
            "unit": self.unit,
            "reach": self.reach,
        }


def seconds(work: Callable[[], Any]) -> float:
    """How long the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(ours: Callable[[], Any], anchor: Callable[[], Any], rounds: int) -> list[tuple[float, float]]:
    """Seconds of both, taken in turn, either one first every other round, after one round that does not count."""
    ours()
    anchor()
    pairs = []
    for number in range(rounds):
        taken = {work: seconds(work) for work in ((ours, anchor) if number % 2 else (anchor, ours))}
        pairs.append((taken[ours], taken[anchor]))
    return pairs


def cost(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """How many times the anchor's time ours takes."""
    return [ours / anchor for ours, anchor in pairs]


def speed(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """How many times as fast ours is."""
    return [anchor / ours for ours, anchor in pairs]
