"""Paired statistics: whether a method is right more often than a baseline on the same questions.

Each question is a pair of answers, its difference the number of samples on which the method alone is right, less those
on which the baseline alone is. Questions that share a source, such as the entity asked about, are no independent
evidence: they form a group, and it is groups that are flipped and drawn. Effects are fractions, 0.05 being 5 points.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, norm

from dsmoe.results import HarmVerdict

HARM_MARGIN = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Pairs:
    """Differences of a method and a baseline, a question each, of `samples` samples, and the questions' groups."""

    differences: Sequence[int]
    groups: Sequence[Hashable]
    samples: int = 1

    @property
    def n(self) -> int:
        """Questions."""
        return len(self.differences)

    @property
    def gained(self) -> int:
        """Questions on which the method is right more often."""
        return sum(difference > 0 for difference in self.differences)

    @property
    def lost(self) -> int:
        """Questions on which the baseline is."""
        return sum(difference < 0 for difference in self.differences)

    @property
    def delta(self) -> float:
        """The mean difference, a fraction."""
        return sum(self.differences) / (self.n * self.samples)

    @cached_property
    def of_groups(self) -> list[tuple[int, int]]:
        """Every group's summed difference and its number of questions, sorted: the order of questions cannot matter."""
        sums: Counter[Hashable] = Counter()
        sizes: Counter[Hashable] = Counter()
        for group, difference in zip(self.groups, self.differences, strict=True):
            sums[group] += difference
            sizes[group] += 1
        return sorted((sums[group], sizes[group]) for group in sizes)

    @cached_property
    def design_effect(self) -> float:
        """How many times larger the variance is than that of as many questions without groups; at least 1.

        Rao and Scott (1992), Biometrics 48:577: counts divided by it can be used as if they were independent.
        """
        # In whole numbers, n times the deviations from the mean, so that no order of questions can change a bit.
        total = sum(self.differences)
        alone = sum((self.n * difference - total) ** 2 for difference in self.differences)
        together = sum((self.n * summed - total * size) ** 2 for summed, size in self.of_groups)
        return max(1.0, together / alone) if alone else 1.0

    @cached_property
    def independent(self) -> tuple[float, float, float]:
        """Gained, lost and n, as fractions of questions, that as much evidence would have without groups."""
        gained = sum(max(difference, 0) for difference in self.differences) / self.samples
        lost = sum(max(-difference, 0) for difference in self.differences) / self.samples
        return gained / self.design_effect, lost / self.design_effect, self.n / self.design_effect


def sign_flip(pairs: Pairs) -> float:
    """Exact two-sided p value that in every group the method and the baseline could as well be swapped.

    All 2^groups swaps are counted. Where no two questions share a group this is McNemar's exact test (1947,
    Psychometrika 12:153, with the binomial distribution).
    """
    observed = abs(sum(pairs.differences))
    if not observed:
        return 1.0
    sizes = Counter(abs(total) for total, _ in pairs.of_groups if total)
    distribution = np.ones(1)
    for size, count in sorted(sizes.items()):
        flips = np.zeros(2 * size * count + 1)
        flips[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, flips)
    sums = np.arange(len(distribution)) - (len(distribution) - 1) // 2
    return min(1.0, float(distribution[np.abs(sums) >= observed].sum()))


def bootstrap_interval(pairs: Pairs, seed: int, level: float = 0.95, resamples: int = 10_000) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean paired difference; groups are drawn, not questions.

    Groups of equal difference and size are alike, so drawing groups is exactly a multinomial draw of how often each
    kind comes. Without any difference every resample is alike and the interval is (0, 0).
    """
    kinds = sorted(Counter(pairs.of_groups).items())
    totals, sizes = np.array([kind for kind, _ in kinds]).T
    counts = np.array([count for _, count in kinds])
    draws = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    means: NDArray[np.float64] = (draws @ totals) / (draws @ sizes) / pairs.samples
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def standard_error(right: Sequence[int], groups: Sequence[Hashable], samples: int = 1) -> float:
    """Standard error of the share of right answers, `samples` a question, that of groups where questions share one.

    Without shared groups it is that of a mean of n values, lm-eval's sqrt(p (1 - p) / (n - 1)) for one sample each.
    """
    of_groups = Pairs(right, groups, samples).of_groups
    mean = sum(right) / len(right)
    spread = sum((total - mean * size) ** 2 for total, size in of_groups)
    return float(np.sqrt(spread * len(of_groups) / max(1, len(of_groups) - 1))) / (len(right) * samples)


def smallest_visible_effect(pairs: Pairs, alpha: float, power: float = POWER) -> float:
    """Smallest true difference that `sign_flip` on these questions finds, with the right sign and p < alpha.

    The power is exact and unconditional for questions without groups (Duffy 1984, Biometrics 40:1005; Connor 1987,
    Biometrics 43:207, approximates it): the number of discordant pairs is binomial at the observed rate, raised to the
    effect itself where that is larger, for a difference needs at least as much discordance; given that number, losses
    are binomial. With no discordant pair at all the effect is its own discordance, all of it gains. Groups count as
    fewer questions, by the design effect. In [0, 1]; 1.0 where not even a gain on every question would be found.
    """
    gained, lost, independent = pairs.independent
    n, rate = max(1, int(independent)), (gained + lost) / independent
    discordant, most_lost = np.arange(n + 1), _most_lost(n, alpha)

    def surplus(effect: float) -> float:
        discordance = max(rate, effect)
        found = binom.cdf(most_lost, discordant, (1 - effect / discordance) / 2)
        return float(binom.pmf(discordant, n, discordance) @ found) - power

    return 1.0 if surplus(1.0) <= 0 else float(brentq(surplus, 1e-9, 1.0))


@lru_cache(maxsize=64)
def _most_lost(n: int, alpha: float) -> NDArray[np.float64]:
    """For 0 to n discordant pairs, the most losses that still give p < alpha."""
    found: NDArray[np.float64] = binom.ppf(alpha / 2, np.arange(n + 1), 0.5) - 1
    return found


def non_inferiority(pairs: Pairs, margin: float = HARM_MARGIN) -> tuple[float, HarmVerdict]:
    """One-sided 95% lower bound of the paired difference, and whether the loss stays within the margin.

    `non-inferior`: the lower bound is above -margin. `harmed`: the upper one-sided 95% bound is below -margin, so that
    the loss exceeds the margin. `undecided`: neither. The two claims are tests of the one boundary from its two
    sides: they exclude each other, and a true loss on the right side of the margin is called wrongly about one time
    in twenty. That there is *any* loss is another question, which `sign_flip` answers on the same pairs: a loss can be
    significant and non-inferior.

    The bounds invert Tango's score test (1998, Statistics in Medicine 17:891), whose variance is taken at the
    difference in question, not at the observed one: it keeps a width where no pair is discordant, z² / (n + z²). Groups
    count as fewer questions, by the design effect.
    """
    gained, lost, n = pairs.independent
    lower = _score_lower_bound(gained, lost, n)
    upper = -_score_lower_bound(lost, gained, n)
    if lower > -margin:
        return lower, "non-inferior"
    return lower, "harmed" if upper < -margin else "undecided"


def _score_lower_bound(gained: float, lost: float, n: float, level: float = 0.95) -> float:
    """The difference below the observed one at which Tango's score statistic equals the normal quantile of `level`."""
    quantile = float(norm.ppf(level))
    below, above = -1.0, (gained - lost) / n
    # Bisection, since the root must be told from the one at the observed difference where no pair is discordant.
    for _ in range(60):
        middle = (below + above) / 2
        if gained - lost - n * middle > quantile * _restricted_deviation(gained, lost, n, middle):
            below = middle
        else:
            above = middle
    return below


def _restricted_deviation(gained: float, lost: float, n: float, difference: float) -> float:
    """Standard deviation of gained - lost where the rates are most likely among those with this difference."""
    linear = (2 * n - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    loss_rate = (np.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
    return float(np.sqrt(max(0.0, n * (2 * loss_rate + difference * (1 - difference)))))
