"""Comparisons of methods that answered the same questions: from right and wrong answers to verdicts.

The primary family is fixed for a cell: on the target, dsmoe against base, sft and other_domain. Everything else is the
secondary family. Holm adjusts within each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dsmoe.evaluation.multiplicity import SIGNIFICANCE, holm
from dsmoe.evaluation.outcome import Outcome, first_of_each_task, non_target
from dsmoe.evaluation.statistics import (
    HARM_MARGIN,
    Pairs,
    bootstrap_interval,
    non_inferiority,
    sign_flip,
    smallest_visible_effect,
)
from dsmoe.results import Comparison, Family, Harm, Role, Verdict


class PairingError(ValueError):
    """Two methods did not answer the same questions, so their answers cannot be paired."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """The questions of a comparison."""

    role: Role
    task: str | None
    domain: str | None
    tasks: tuple[str, ...]


def compare(outcomes: Sequence[Outcome], seed: int) -> list[Comparison]:
    """Both families, the primary one first; pairs of methods of which one is absent are left out.

    `seed` draws the bootstrap intervals. Raises PairingError where the methods did not answer the same questions, and
    ValueError unless there is one target task and each method answered each task once.
    """
    answers = {(outcome.method, outcome.task): outcome for outcome in outcomes}
    if len(answers) < len(outcomes):
        raise ValueError("a method answered a task twice")
    methods = tuple(dict.fromkeys(outcome.method for outcome in outcomes))
    references = first_of_each_task(outcomes)
    _check_pairing(answers, methods, references)

    targets = [outcome for outcome in references if outcome.role == "target"]
    if len(targets) != 1:
        raise ValueError(f"a cell has one target task, not {len(targets)}")
    others = non_target(references)
    target = _Scope("target", targets[0].task, targets[0].domain, (targets[0].task,))
    each_other = [_Scope("non_target", outcome.task, outcome.domain, (outcome.task,)) for outcome in others]
    pooled = [_Scope("non_target", None, None, tuple(outcome.task for outcome in others))] if others else []

    primary = [("dsmoe", baseline, target) for baseline in ("base", "sft", "other_domain")]
    secondary = [(method, "base", target) for method in methods if method != "dsmoe"]
    secondary.append(("dsmoe", "random", target))
    secondary += [(method, "base", scope) for scope in each_other + pooled for method in methods]
    secondary += [("dsmoe", "sft", scope) for scope in each_other + pooled]
    return _family("primary", primary, answers, seed) + _family("secondary", secondary, answers, seed)


def _family(
    family: Family, pairs: Iterable[tuple[str, str, _Scope]], answers: dict[tuple[str, str], Outcome], seed: int
) -> list[Comparison]:
    present = {method for method, _ in answers}
    pairs = [pair for pair in pairs if pair[0] != pair[1] and present.issuperset(pair[:2])]
    paired = [_paired(method, baseline, scope, answers) for method, baseline, scope in pairs]
    p_values = [sign_flip(both) for both in paired]
    comparisons = []
    for (method, baseline, scope), both, p_value, p_adjusted in zip(
        pairs, paired, p_values, holm(p_values), strict=True
    ):
        low, high = bootstrap_interval(both, seed)
        verdict: Verdict = "no evidence"
        if p_adjusted < SIGNIFICANCE:
            verdict = "better" if both.delta > 0 else "worse"
        harm = None
        if scope.task is None and baseline == "base":
            harm = Harm(HARM_MARGIN, *non_inferiority(both, HARM_MARGIN))
        comparisons.append(
            Comparison(
                method=method,
                baseline=baseline,
                task=scope.task,
                domain=scope.domain,
                role=scope.role,
                n=both.n,
                groups=len(both.of_groups),
                delta=both.delta,
                ci_low=low,
                ci_high=high,
                p_value=p_value,
                p_adjusted=p_adjusted,
                gained=both.gained,
                lost=both.lost,
                verdict=verdict,
                family=family,
                smallest_visible_effect=smallest_visible_effect(both, SIGNIFICANCE / len(pairs)),
                harm=harm,
            )
        )
    return comparisons


def _paired(method: str, baseline: str, scope: _Scope, answers: dict[tuple[str, str], Outcome]) -> Pairs:
    """Both methods' answers over the tasks of a scope. A group's questions may stand in several tasks."""
    differences: list[int] = []
    groups: list[str] = []
    samples = 1
    for task in scope.tasks:
        ours, theirs = answers[method, task], answers[baseline, task]
        right = dict(zip(theirs.doc_ids, theirs.right, strict=True))
        differences += [count - right[doc_id] for doc_id, count in zip(ours.doc_ids, ours.right, strict=True)]
        groups += ours.groups
        samples = ours.samples
    return Pairs(differences, groups, samples)


def _check_pairing(
    answers: dict[tuple[str, str], Outcome], methods: Sequence[str], references: Sequence[Outcome]
) -> None:
    for reference in references:
        for method in methods:
            outcome = answers.get((method, reference.task))
            if outcome is None:
                raise PairingError(f"{method} did not answer {reference.task}, which {reference.method} did")
            if _kind(outcome) != _kind(reference):
                raise PairingError(
                    f"{method} on {outcome.task} has another domain, role, metric or number of samples than "
                    f"{reference.method}"
                )
            ours = set(zip(outcome.doc_ids, outcome.doc_hashes, strict=True))
            if differing := ours ^ set(zip(reference.doc_ids, reference.doc_hashes, strict=True)):
                doc_id, doc_hash = min(differing)
                raise PairingError(
                    f"{method} on {outcome.task} did not answer the questions that {reference.method} did: "
                    f"they differ first at document {doc_id} ({doc_hash})"
                )


def _kind(outcome: Outcome) -> tuple[str, str, str, int]:
    return outcome.domain, outcome.role, outcome.metric, outcome.samples
