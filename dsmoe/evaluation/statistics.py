"""Paired statistics: whether a method is right more often than a baseline on the same questions.

Each question is a pair of answers, so a comparison is three counts: `gained` (the method right, the baseline wrong),
`lost` (the other way round) and n, all questions. Differences and effects are fractions of n, 0.05 being 5 points.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, norm

from dsmoe.results import HarmVerdict

HARM_MARGIN = 0.05
POWER = 0.8


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p value that gains and losses are equally likely; 1.0 where there are neither.

    McNemar (1947), Psychometrika 12:153, with the binomial distribution in place of the normal one.
    """
    return min(1.0, 2 * float(binom.cdf(min(gained, lost), gained + lost, 0.5)))


def bootstrap_interval(
    gained: int, lost: int, n: int, seed: int, level: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean paired difference.

    A question's difference is -1, 0 or +1, so resampling questions is exactly a multinomial draw of the three counts,
    and their order cannot matter. Without discordant pairs every resample is alike and the interval is (0, 0).
    """
    shares = np.array([gained, lost, n - gained - lost]) / n
    draws = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, in the order given, at most 1. Holm (1979), Scand. J. Statist. 6:65."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def smallest_visible_effect(n: int, discordant: int, alpha: float, power: float = POWER) -> float:
    """Smallest true difference that `mcnemar` on n questions finds, with the right sign and p < alpha, at this power.

    The power is exact and unconditional (Duffy 1984, Biometrics 40:1005; Connor 1987, Biometrics 43:207, approximates
    it): the number of discordant pairs is binomial at the observed rate discordant / n, raised to the effect itself
    where that is larger, for a difference needs at least as much discordance; given that number, losses are binomial.
    With no discordant pair at all the effect is its own discordance, all of it gains. In [0, 1]; 1.0 where not even a
    gain on every question would be found.
    """
    rate = discordant / n
    pairs = np.arange(n + 1)
    # For each number of discordant pairs, the most losses that still give p < alpha.
    most_lost = binom.ppf(alpha / 2, pairs, 0.5) - 1

    def surplus(effect: float) -> float:
        discordance = max(rate, effect)
        found = binom.cdf(most_lost, pairs, (1 - effect / discordance) / 2)
        return float(binom.pmf(pairs, n, discordance) @ found) - power

    return 1.0 if surplus(1.0) <= 0 else float(brentq(surplus, 1e-9, 1.0))


def non_inferiority(gained: int, lost: int, n: int, margin: float = HARM_MARGIN) -> tuple[float, HarmVerdict]:
    """One-sided 95% lower bound of the paired difference, and whether the loss stays within the margin.

    `non-inferior`: the lower bound is above -margin. `harmed`: the upper one-sided 95% bound is below -margin, so that
    the loss exceeds the margin. `undecided`: neither. The two claims are tests of the one boundary from its two
    sides: they exclude each other, and a true loss on the right side of the margin is called wrongly about one time
    in twenty. That there is *any* loss is another question, which `mcnemar` answers on the same counts: a loss can be
    significant and non-inferior.

    The bounds invert Tango's score test (1998, Statistics in Medicine 17:891), whose variance is taken at the
    difference in question, not at the observed one: it keeps a width where no pair is discordant, z² / (n + z²).
    """
    lower = _score_lower_bound(gained, lost, n)
    upper = -_score_lower_bound(lost, gained, n)
    if lower > -margin:
        return lower, "non-inferior"
    return lower, "harmed" if upper < -margin else "undecided"


def _score_lower_bound(gained: int, lost: int, n: int, level: float = 0.95) -> float:
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


def _restricted_deviation(gained: int, lost: int, n: int, difference: float) -> float:
    """Standard deviation of gained - lost where the rates are most likely among those with this difference."""
    linear = (2 * n - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    loss_rate = (np.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
    return float(np.sqrt(max(0.0, n * (2 * loss_rate + difference * (1 - difference)))))
