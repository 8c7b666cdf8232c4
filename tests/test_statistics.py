"""The statistics against sums of fractions, closed testing, exact error rates and simulation."""

from fractions import Fraction
from itertools import combinations, product
from math import comb
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, xlogy

from dsmoe.evaluation.multiplicity import holm
from dsmoe.evaluation.statistics import (
    Pairs,
    bootstrap_interval,
    non_inferiority,
    sign_flip,
    smallest_visible_effect,
    standard_error,
)

Z95 = 1.6448536269514722
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def pairs(gained: int, lost: int, n: int) -> Pairs:
    """Questions of which no two share a group."""
    return Pairs([1] * gained + [-1] * lost + [0] * (n - gained - lost), range(n))


def mcnemar(gained: int, lost: int) -> float:
    return sign_flip(pairs(gained, lost, gained + lost + 1))


def exact_p(gained: int, lost: int) -> Fraction:
    """The share of all ways to hand out the discordant pairs that are at least as uneven as this one."""
    n = gained + lost
    uneven = [k for k in range(n + 1) if abs(2 * k - n) >= abs(gained - lost)]
    return sum((Fraction(comb(n, k), 2**n) for k in uneven), Fraction(0))


def exact_power(n: int, effect: float, discordance: float, alpha: float) -> float:
    """The chance of a significant gain, summed over every possible (gained, lost)."""
    gain, loss = (discordance + effect) / 2, (discordance - effect) / 2
    power = 0.0
    for gained in range(n + 1):
        for lost in range(min(gained, n - gained + 1)):
            if exact_p(gained, lost) < alpha:
                ways = comb(n, gained) * comb(n - gained, lost)
                power += ways * gain**gained * loss**lost * (1 - discordance) ** (n - gained - lost)
    return power


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_sum_of_uneven_splits(gained: int, lost: int) -> None:
    assert mcnemar(gained, lost) == pytest.approx(float(exact_p(gained, lost)), rel=1e-12)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_mcnemar_on_counts_known_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(6, 0) == pytest.approx(2 / 64)
    assert mcnemar(1, 9) == pytest.approx(22 / 1024)


grouped = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 6)), min_size=1, max_size=12)


@given(grouped)
def test_groups_are_flipped_whole(questions: list[tuple[int, int]]) -> None:
    """Against all ways to swap the methods, group by group."""
    sums: dict[int, int] = {}
    for difference, group in questions:
        sums[group] = sums.get(group, 0) + difference
    observed = abs(sum(sums.values()))
    swaps = [
        sum(sign * total for sign, total in zip(signs, sums.values(), strict=True))
        for signs in product((1, -1), repeat=len(sums))
    ]
    expected = Fraction(sum(abs(total) >= observed for total in swaps), len(swaps))
    differences, groups = zip(*questions, strict=True)
    assert sign_flip(Pairs(differences, groups, samples=3)) == pytest.approx(float(expected), rel=1e-12)


def test_groups_of_two_are_half_the_evidence() -> None:
    alone = pairs(20, 4, 60)
    doubled = Pairs([d for d in alone.differences for _ in range(2)], [g for g in alone.groups for _ in range(2)])
    assert sign_flip(doubled) == pytest.approx(sign_flip(alone), rel=1e-12)
    assert sign_flip(doubled) > 10 * mcnemar(40, 8)
    assert doubled.design_effect == pytest.approx(2)
    assert doubled.independent == pytest.approx((20, 4, 60))
    assert bootstrap_interval(doubled, seed=0) == bootstrap_interval(alone, seed=0)
    assert non_inferiority(doubled) == non_inferiority(alone)
    assert smallest_visible_effect(doubled, 0.05) == smallest_visible_effect(alone, 0.05)
    assert (doubled.n, doubled.gained, doubled.lost, doubled.delta) == (120, 40, 8, alone.delta)


def test_the_bootstrap_draws_groups() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 6, size=60)
    differences = [
        int(sign)
        for size, sign in zip(sizes, rng.choice([-1, 0, 1], size=60, p=[0.2, 0.3, 0.5]), strict=True)
        for _ in range(size)
    ]
    groups = np.repeat(np.arange(60), sizes)
    totals = np.array([sum(d for d, g in zip(differences, groups, strict=True) if g == group) for group in range(60)])
    drawn = rng.integers(0, 60, size=(20_000, 60))
    expected = np.quantile(totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])
    assert bootstrap_interval(Pairs(differences, groups.tolist()), seed=0) == pytest.approx(expected, abs=0.01)


def test_standard_errors() -> None:
    assert standard_error([1, 1, 1, 0], "abcd") == pytest.approx(0.25)  # sqrt(p (1 - p) / (n - 1))
    assert standard_error([1, 1, 0, 0], "aabb") == pytest.approx(0.5)  # as of two questions
    assert standard_error([2, 2, 2, 0], "abcd", samples=2) == pytest.approx(0.25)


@given(p_values)
def test_holm_is_closed_testing_with_bonferroni(values: list[float]) -> None:
    for index, adjusted in enumerate(holm(values)):
        subsets = [
            subset
            for size in range(1, len(values) + 1)
            for subset in combinations(range(len(values)), size)
            if index in subset
        ]
        largest = max(min(1.0, len(subset) * min(values[member] for member in subset)) for subset in subsets)
        assert adjusted == pytest.approx(largest, rel=1e-12)


def test_holm_on_a_worked_example() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


@given(p_values, st.randoms())
def test_holm_follows_its_p_values_in_any_order(values: list[float], random: Random) -> None:
    order = list(range(len(values)))
    random.shuffle(order)
    shuffled = holm([values[index] for index in order])
    assert shuffled == [holm(values)[index] for index in order]


def test_bootstrap_agrees_with_resampling_question_by_question() -> None:
    differences = np.array([1] * 30 + [-1] * 10 + [0] * 110)
    rng = np.random.default_rng(7)
    means = differences[rng.integers(0, 150, size=(20_000, 150))].mean(axis=1)
    expected = np.quantile(means, [0.025, 0.975])
    # One question is 1/150, the grain of the quantiles.
    assert bootstrap_interval(pairs(30, 10, 150), seed=0) == pytest.approx(expected, abs=1.01 / 150)


def test_bootstrap_covers_the_true_difference() -> None:
    draws = np.random.default_rng(1).multinomial(300, [0.15, 0.10, 0.75], size=400)
    intervals = [bootstrap_interval(pairs(int(g), int(c), 300), seed=2, resamples=1000) for g, c, _ in draws]
    covered = np.mean([low <= 0.05 <= high for low, high in intervals])
    assert 0.92 <= covered <= 0.98


def test_bootstrap_is_seeded_and_narrows_with_the_level() -> None:
    assert bootstrap_interval(pairs(9, 4, 80), seed=3) == bootstrap_interval(pairs(9, 4, 80), seed=3)
    assert bootstrap_interval(pairs(0, 0, 80), seed=3) == (0.0, 0.0)
    wide, narrow = (
        bootstrap_interval(pairs(90, 40, 800), seed=3),
        bootstrap_interval(pairs(90, 40, 800), seed=3, level=0.5),
    )
    assert wide[0] < narrow[0] < 50 / 800 < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("n", "discordant", "alpha"), [(40, 12, 0.05), (40, 3, 0.05), (40, 0, 0.05), (30, 9, 0.05 / 3)]
)
def test_smallest_visible_effect_has_the_power_summed_by_hand(n: int, discordant: int, alpha: float) -> None:
    effect = smallest_visible_effect(pairs(discordant, 0, n), alpha)
    assert exact_power(n, effect, max(effect, discordant / n), alpha) == pytest.approx(0.8, abs=1e-6)


def test_smallest_visible_effect_is_found_in_four_of_five_simulated_studies() -> None:
    effect = smallest_visible_effect(pairs(60, 0, 250), alpha=0.05)
    gain, loss = (60 / 250 + effect) / 2, (60 / 250 - effect) / 2
    draws = np.random.default_rng(5).multinomial(250, [gain, loss, 1 - gain - loss], size=4000)
    found = np.mean([gained > lost and mcnemar(gained, lost) < 0.05 for gained, lost, _ in draws])
    assert found == pytest.approx(0.8, abs=0.02)


def test_smallest_visible_effect_is_one_where_nothing_is_visible() -> None:
    # Five questions all gained give p = 1/16; six give 1/32.
    assert smallest_visible_effect(pairs(0, 0, 5), alpha=0.05) == 1.0
    assert smallest_visible_effect(pairs(0, 0, 6), alpha=0.05) < 1.0
    assert smallest_visible_effect(pairs(0, 0, 6), alpha=0.03) == 1.0


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 400), st.floats(0, 1), st.floats(0.001, 0.05))
def test_smallest_visible_effect_grows_with_discordance_and_strictness(n: int, share: float, alpha: float) -> None:
    discordant = int(share * n)
    effect = smallest_visible_effect(pairs(discordant, 0, n), alpha)
    assert 0 < effect <= 1
    assert smallest_visible_effect(pairs(discordant, 0, n), alpha / 3) >= effect - 1e-9
    assert smallest_visible_effect(pairs(discordant, 0, n), alpha, power=0.9) >= effect - 1e-9
    assert smallest_visible_effect(pairs(0, 0, n), alpha) <= effect + 1e-9


@settings(deadline=None, max_examples=60)
@given(st.integers(20, 500), st.floats(0, 0.5), st.floats(0, 0.5))
def test_the_bound_is_where_the_score_statistic_is_the_normal_quantile(n: int, gain: float, loss: float) -> None:
    gained, lost = int(gain * n), int(loss * n)
    bound, _ = non_inferiority(pairs(gained, lost, n))

    def minus_log_likelihood(loss_rate: float) -> float:
        rates = (loss_rate + bound, loss_rate, 1 - bound - 2 * loss_rate)
        return -sum(float(xlogy(k, p)) for k, p in zip((gained, lost, n - gained - lost), rates, strict=True))

    allowed = (max(0.0, -bound), (1 - bound) / 2)
    loss_rate = float(minimize_scalar(minus_log_likelihood, bounds=allowed, options={"xatol": 1e-10}).x)
    deviation = np.sqrt(n * (2 * loss_rate + bound - bound**2))
    assert (gained - lost - n * bound) / deviation == pytest.approx(Z95, rel=1e-3)


def test_the_bound_keeps_its_width_without_discordant_pairs() -> None:
    assert non_inferiority(pairs(0, 0, 100))[0] == pytest.approx(-(Z95**2) / (100 + Z95**2))
    assert non_inferiority(pairs(0, 0, 51))[1] == "undecided"
    assert non_inferiority(pairs(0, 0, 52))[1] == "non-inferior"
    bound, verdict = non_inferiority(pairs(0, 10, 10))
    assert bound == pytest.approx(-1)
    assert verdict == "harmed"


def test_a_loss_may_be_significant_and_non_inferior() -> None:
    assert mcnemar(10, 40) < 0.001
    assert non_inferiority(pairs(10, 40, 2000))[1] == "non-inferior"
    assert non_inferiority(pairs(10, 40, 250))[1] == "harmed"
    assert non_inferiority(pairs(20, 40, 400))[1] == "undecided"
    assert non_inferiority(pairs(20, 40, 400), margin=0.1)[1] == "non-inferior"


@pytest.mark.parametrize(
    ("n", "discordance"), [(60, 0.0501), (60, 0.1), (60, 0.3), (200, 0.0501), (200, 0.06), (200, 0.1)]
)
def test_a_loss_at_the_margin_is_rarely_called_either_way(n: int, discordance: float) -> None:
    """Error rates summed exactly over every likely (gained, lost)."""
    gain, loss = (discordance - 0.05) / 2, (discordance + 0.05) / 2
    centre, spread = n * np.array([gain, loss]), 6 * np.sqrt(n * np.array([gain, loss])) + 4
    rates = {"non-inferior": 0.0, "harmed": 0.0, "undecided": 0.0}
    for gained in range(max(0, int(centre[0] - spread[0])), min(n, int(centre[0] + spread[0])) + 1):
        for lost in range(max(0, int(centre[1] - spread[1])), min(n - gained, int(centre[1] + spread[1])) + 1):
            ties = n - gained - lost
            ways = gammaln(n + 1) - gammaln(gained + 1) - gammaln(lost + 1) - gammaln(ties + 1)
            log_chance = ways + xlogy(gained, gain) + xlogy(lost, loss) + xlogy(ties, 1 - gain - loss)
            rates[non_inferiority(pairs(gained, lost, n))[1]] += float(np.exp(log_chance))
    assert sum(rates.values()) == pytest.approx(1, abs=1e-6)
    assert rates["non-inferior"] <= 0.052
    # The score bound is a little liberal on this side where n is small and discordance hardly above the margin.
    assert rates["harmed"] <= (0.09 if n == 60 else 0.06)
