"""Comparisons: families, verdicts and pairing, on answers whose counts are known."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmoe.evaluation.comparison import PairingError, compare
from dsmoe.evaluation.outcome import Outcome, rows
from dsmoe.evaluation.statistics import Pairs, bootstrap_interval, non_inferiority, smallest_visible_effect
from dsmoe.results import Comparison, Harm, Row

METHODS = ("base", "sft", "dsmoe", "other_domain", "random")


def outcome(method: str, domain: str, correct: Sequence[int], **fields: Any) -> Outcome:
    defaults: dict[str, Any] = {
        "task": f"task_{domain}",
        "role": "target" if domain == "chemistry" else "non_target",
        "metric": "acc",
        "doc_ids": tuple(range(len(correct))),
        "doc_hashes": tuple(f"{domain}-{index}" for index in range(len(correct))),
        "groups": tuple(f"{domain} {index}" for index in range(len(correct))),
        "chance": 0.25,
    }
    return Outcome(method=method, domain=domain, right=tuple(map(int, correct)), **(defaults | fields))


def pairs(gained: int, lost: int, n: int) -> Pairs:
    return Pairs([1] * gained + [-1] * lost + [0] * (n - gained - lost), range(n))


def answers(methods: Sequence[str] = METHODS, seed: int = 0) -> list[Outcome]:
    random = Random(seed)
    sizes = {"chemistry": 40, "biology": 30, "physics": 50}
    return [
        outcome(method, domain, [random.random() < 0.5 for _ in range(n)])
        for method in methods
        for domain, n in sizes.items()
    ]


def keys(comparisons: Sequence[Comparison], family: str) -> list[tuple[str, str, str | None]]:
    return [(one.method, one.baseline, one.task) for one in comparisons if one.family == family]


def test_the_families_are_fixed() -> None:
    comparisons = compare(answers(), seed=0)
    assert keys(comparisons, "primary") == [
        ("dsmoe", "base", "task_chemistry"),
        ("dsmoe", "sft", "task_chemistry"),
        ("dsmoe", "other_domain", "task_chemistry"),
    ]
    others = ("sft", "dsmoe", "other_domain", "random")
    assert keys(comparisons, "secondary") == [
        ("sft", "base", "task_chemistry"),
        ("other_domain", "base", "task_chemistry"),
        ("random", "base", "task_chemistry"),
        ("dsmoe", "random", "task_chemistry"),
        *((method, "base", "task_biology") for method in others),
        *((method, "base", "task_physics") for method in others),
        *((method, "base", None) for method in others),
        *(("dsmoe", "sft", task) for task in ("task_biology", "task_physics", None)),
    ]


def test_absent_methods_leave_no_comparison() -> None:
    assert compare(answers(["base"]), seed=0) == []
    two = compare(answers(["base", "dsmoe"]), seed=0)
    assert keys(two, "primary") == [("dsmoe", "base", "task_chemistry")]
    assert two[0].p_adjusted == two[0].p_value
    without_base = compare(answers(["sft", "dsmoe"]), seed=0)
    tasks = ["task_chemistry", "task_biology", "task_physics", None]
    assert [(one.baseline, one.task) for one in without_base] == [("sft", task) for task in tasks]
    assert without_base[-1].harm is None


def test_a_comparison_on_counts_known_by_hand() -> None:
    base = outcome("base", "chemistry", [False] * 12 + [True] * 4 + [True] * 24)
    dsmoe = outcome("dsmoe", "chemistry", [True] * 12 + [False] * 4 + [True] * 24)
    sft = outcome("sft", "chemistry", [True] * 12 + [True] * 4 + [True] * 24)
    against_base, against_sft = compare([base, dsmoe, sft], seed=3)[:2]
    # 12 to 4: 2 (1 + 16 + 120 + 560 + 1820) / 2^16; 0 to 4: 2 / 2^4; Holm over two doubles the smaller.
    assert (against_base.gained, against_base.lost, against_base.n) == (12, 4, 40)
    assert against_base.delta == 0.2
    assert against_base.p_value == pytest.approx(5034 / 65536)
    assert against_base.p_adjusted == pytest.approx(2 * 5034 / 65536)
    assert (against_base.ci_low, against_base.ci_high) == bootstrap_interval(pairs(12, 4, 40), seed=3)
    assert against_base.smallest_visible_effect == smallest_visible_effect(pairs(12, 4, 40), alpha=0.05 / 2)
    assert against_base.verdict == "no evidence"
    assert (against_sft.gained, against_sft.lost) == (0, 4)
    assert against_sft.p_adjusted == pytest.approx(2 * 5034 / 65536)


def test_questions_about_one_thing_count_once() -> None:
    """Six questions gained are 1/32, but no evidence where all are about two things."""
    base, dsmoe = outcome("base", "chemistry", [False] * 6), outcome("dsmoe", "chemistry", [True] * 6)
    groups = ("iron", "iron", "iron", "gold", "gold", "gold")
    (one,) = compare([replace(base, groups=groups), replace(dsmoe, groups=groups)], seed=0)
    assert (one.n, one.groups, one.gained, one.verdict) == (6, 2, 6, "no evidence")
    assert one.p_value == pytest.approx(1 / 2)
    (other,) = compare([base, dsmoe], seed=0)
    assert (other.n, other.groups, other.verdict) == (6, 6, "better")
    assert other.p_value == pytest.approx(1 / 32)


def test_several_samples_of_a_question_are_one_pair() -> None:
    base = outcome("base", "chemistry", [0, 1, 2, 4, 0], samples=4)
    dsmoe = outcome("dsmoe", "chemistry", [3, 1, 3, 3, 1], samples=4)
    (one,) = compare([base, dsmoe], seed=0)
    assert (one.gained, one.lost, one.n, one.delta) == (3, 1, 5, 4 / 20)
    # Sums of ±3 ±1 ±1 ±1: 6 once, 4 three times, 2 three times, 0 once, and their opposites: |sum| ≥ 4 in 8 of 16.
    assert one.p_value == pytest.approx(8 / 16)
    assert rows([base])[1].value == 7 / 20


def test_verdicts_follow_the_adjusted_p_value_and_the_sign() -> None:
    right, wrong = outcome("dsmoe", "chemistry", [True] * 6), outcome("base", "chemistry", [False] * 6)
    (better,) = compare([wrong, right], seed=0)
    assert better.p_adjusted == pytest.approx(1 / 32)
    assert better.verdict == "better"
    (worse,) = compare([replace(wrong, method="dsmoe"), replace(right, method="base")], seed=0)
    assert worse.verdict == "worse"
    # The same counts in a family of two: 1/32 doubled is no evidence any more.
    both = compare([wrong, right, replace(wrong, method="sft")], seed=0)
    assert [(one.family, one.verdict) for one in both] == [
        ("primary", "no evidence"),
        ("primary", "no evidence"),
        ("secondary", "no evidence"),
    ]


def test_pooled_comparisons_sum_the_domains_and_judge_harm() -> None:
    comparisons = compare(answers(), seed=0)
    for pooled in (one for one in comparisons if one.task is None and one.baseline == "base"):
        parts = [
            one
            for one in comparisons
            if (one.method, one.baseline, one.role) == (pooled.method, "base", "non_target") and one.task
        ]
        assert [one.n for one in parts] == [30, 50]
        assert pooled.n == 80
        assert pooled.gained == sum(one.gained for one in parts)
        assert pooled.lost == sum(one.lost for one in parts)
        assert pooled.domain is None
        assert pooled.harm == Harm(0.05, *non_inferiority(pairs(pooled.gained, pooled.lost, 80)))
    assert all(one.harm is None for one in comparisons if one.task is not None or one.baseline != "base")


def test_rows_hold_accuracy_chance_and_the_pool() -> None:
    table = rows(
        [
            outcome("base", "chemistry", [True, True, True, False], chance=0.1),
            outcome("base", "biology", [True, False], chance=0.25),
            outcome("base", "physics", [False] * 6, chance=0.5),
            outcome("dsmoe", "chemistry", [True] * 4, chance=0.1, strength=4.0, num_experts=8, mode="logit"),
        ]
    )
    assert table == [
        Row("chance", "task_chemistry", "chemistry", "target", "acc", 0.1, 0.0, 4),
        Row("chance", "task_biology", "biology", "non_target", "acc", 0.25, 0.0, 2),
        Row("chance", "task_physics", "physics", "non_target", "acc", 0.5, 0.0, 6),
        Row("chance", "non-target", "all others", "non_target", "acc", 3.5 / 8, 0.0, 8),
        Row("base", "task_chemistry", "chemistry", "target", "acc", 0.75, 0.25, 4),
        Row("base", "task_biology", "biology", "non_target", "acc", 0.5, 0.5, 2),
        Row("base", "task_physics", "physics", "non_target", "acc", 0.0, 0.0, 6),
        Row("base", "non-target", "all others", "non_target", "acc", 0.125, 0.125, 8),
        Row("dsmoe", "task_chemistry", "chemistry", "target", "acc", 1.0, 0.0, 4, 4.0, 8, "logit"),
    ]


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_questions_changes_nothing(seed: int, random: Random) -> None:
    ordered = answers(["base", "sft", "dsmoe"], seed)
    shuffled = []
    for one in ordered:
        order = list(range(len(one.doc_ids)))
        random.shuffle(order)
        columns: dict[str, Any] = {
            name: tuple(getattr(one, name)[index] for index in order)
            for name in ("doc_ids", "doc_hashes", "groups", "right")
        }
        shuffled.append(replace(one, **columns))
    assert compare(shuffled, seed=1) == compare(ordered, seed=1)
    assert rows(shuffled) == rows(ordered)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_swapping_two_methods_turns_every_sign(seed: int) -> None:
    names = {"base": "dsmoe", "dsmoe": "base"}
    there = compare(answers(["base", "dsmoe"], seed), seed=0)
    back = compare([replace(one, method=names[one.method]) for one in answers(["base", "dsmoe"], seed)], seed=0)
    swapped = {"better": "worse", "worse": "better", "no evidence": "no evidence"}
    assert [(one.delta, one.p_adjusted, one.gained) for one in there] == [
        (-one.delta, one.p_adjusted, one.lost) for one in back
    ]
    assert [one.verdict for one in there] == [swapped[one.verdict] for one in back]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: replace(one, doc_ids=(0, 1, 7)), "dsmoe on task_chemistry .* base .* first at document 2"),
        (lambda one: replace(one, doc_hashes=("chemistry-0", "x", "chemistry-2")), "dsmoe .* at document 1 "),
        (lambda one: outcome("dsmoe", "chemistry", [True] * 2), "first at document 2 "),
        (lambda one: outcome("dsmoe", "chemistry", [True] * 4), "first at document 3 "),
        (lambda one: replace(one, metric="acc_norm"), "another domain, role, metric or number of samples"),
        (lambda one: replace(one, samples=2), "another domain, role, metric or number of samples"),
        (lambda one: replace(one, task="task_biology", role="non_target"), "dsmoe did not answer task_chemistry"),
    ],
)
def test_answers_to_other_questions_are_not_paired(change: Callable[[Outcome], Outcome], words: str) -> None:
    base = outcome("base", "chemistry", [True] * 3)
    with pytest.raises(PairingError, match=words):
        compare([base, change(replace(base, method="dsmoe"))], seed=0)


def test_impossible_outcomes_are_refused() -> None:
    base = outcome("base", "chemistry", [True] * 3)
    with pytest.raises(ValueError, match="no questions"):
        outcome("base", "chemistry", [])
    with pytest.raises(ValueError, match="unequal length"):
        replace(base, right=(1,))
    with pytest.raises(ValueError, match="stands twice"):
        replace(base, doc_ids=(0, 1, 1))
    with pytest.raises(ValueError, match="a task twice"):
        compare([base, base], seed=0)
    with pytest.raises(ValueError, match="one target task, not 2"):
        compare([base, replace(base, task="another")], seed=0)
