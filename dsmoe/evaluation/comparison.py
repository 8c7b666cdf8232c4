"""Comparisons of methods that answered the same questions: from right and wrong answers to rows and verdicts.

The primary family is fixed for a cell: on the target, dsmoe against base, sft and other_domain. Everything else is the
secondary family. Holm adjusts within each.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dsmoe.evaluation.multiplicity import SIGNIFICANCE, holm
from dsmoe.evaluation.statistics import (
    HARM_MARGIN,
    Pairs,
    bootstrap_interval,
    non_inferiority,
    sign_flip,
    smallest_visible_effect,
    standard_error,
)
from dsmoe.results import (
    CHANCE,
    POOLED_DOMAIN,
    POOLED_TASK,
    Comparison,
    Family,
    Harm,
    Role,
    RoutingChange,
    Row,
    Verdict,
)


class PairingError(ValueError):
    """Two methods did not answer the same questions, so their answers cannot be paired."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one method answered on one task: a question's document id, its hash, its group and its right answers.

    `right` counts the right ones of `samples` answers to a question. Questions of a group share a source. `chance` is
    the mean of 1 / options over the questions, 0 where there are none. `truncated` and `unanswered` count generated
    answers that were cut off, and those in which no answer was found; None where nothing is generated. Raises
    ValueError for no questions, columns of unequal length, a document that stands twice and more right answers than
    samples.
    """

    method: str
    task: str
    domain: str
    role: Role
    metric: str
    doc_ids: tuple[int, ...]
    doc_hashes: tuple[str, ...]
    groups: tuple[str, ...]
    right: tuple[int, ...]
    chance: float
    samples: int = 1
    truncated: int | None = None
    unanswered: int | None = None
    strength: float | None = None
    num_experts: int | None = None
    mode: str | None = None
    routing_changed: RoutingChange | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.doc_ids) == len(self.doc_hashes) == len(self.groups) == len(self.right):
            raise ValueError(f"{self.method} on {self.task}: no questions, or columns of unequal length")
        if len(set(self.doc_ids)) < len(self.doc_ids):
            raise ValueError(f"{self.method} on {self.task}: a document stands twice")
        if not all(0 <= right <= self.samples for right in self.right):
            raise ValueError(f"{self.method} on {self.task}: more right answers than samples")


@dataclass(frozen=True, slots=True)
class _Scope:
    """The questions of a comparison."""

    role: Role
    task: str | None
    domain: str | None
    tasks: tuple[str, ...]


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each outcome, for each method over all non-target questions, and the same for chance, which is first.

    Standard errors are lm-eval's where no two questions share a group, and those of groups where some do.
    """
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    guessed = _first_of_each_task(outcomes)
    table = [_chance_row(outcome.task, outcome.domain, [outcome]) for outcome in guessed]
    if pooled := _non_target(guessed):
        table.append(_chance_row(POOLED_TASK, POOLED_DOMAIN, pooled))
    for method in methods:
        answered = [outcome for outcome in outcomes if outcome.method == method]
        table += [_row(outcome.task, outcome.domain, [outcome]) for outcome in answered]
        if pooled := _non_target(answered):
            table.append(_row(POOLED_TASK, POOLED_DOMAIN, pooled))
    return table


def compare(outcomes: Sequence[Outcome], seed: int) -> list[Comparison]:
    """Both families, the primary one first; pairs of methods of which one is absent are left out.

    `seed` draws the bootstrap intervals. Raises PairingError where the methods did not answer the same questions, and
    ValueError unless there is one target task and each method answered each task once.
    """
    answers = {(outcome.method, outcome.task): outcome for outcome in outcomes}
    if len(answers) < len(outcomes):
        raise ValueError("a method answered a task twice")
    methods = tuple(dict.fromkeys(outcome.method for outcome in outcomes))
    references = _first_of_each_task(outcomes)
    _check_pairing(answers, methods, references)

    targets = [outcome for outcome in references if outcome.role == "target"]
    if len(targets) != 1:
        raise ValueError(f"a cell has one target task, not {len(targets)}")
    others = _non_target(references)
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


def _first_of_each_task(outcomes: Iterable[Outcome]) -> list[Outcome]:
    first: dict[str, Outcome] = {}
    for outcome in outcomes:
        first.setdefault(outcome.task, outcome)
    return list(first.values())


def _non_target(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.role == "non_target"]


def _row(task: str, domain: str, outcomes: Sequence[Outcome]) -> Row:
    right = [count for outcome in outcomes for count in outcome.right]
    groups = [group for outcome in outcomes for group in outcome.groups]
    first = outcomes[0]
    n, value = len(right), sum(right) / (len(right) * first.samples)
    stderr = standard_error(right, groups, first.samples)
    return Row(
        method=first.method,
        task=task,
        domain=domain,
        role=first.role,
        metric=first.metric,
        value=value,
        stderr=stderr,
        n=n,
        strength=first.strength,
        num_experts=first.num_experts,
        mode=first.mode,
        routing_changed=_routing_changed(outcomes),
        samples=first.samples,
        truncated=_share([outcome.truncated for outcome in outcomes], n * first.samples),
        unanswered=_share([outcome.unanswered for outcome in outcomes], n * first.samples),
    )


def _share(counts: Sequence[int | None], answers: int) -> float | None:
    known = [count for count in counts if count is not None]
    return sum(known) / answers if known else None


def _routing_changed(outcomes: Sequence[Outcome]) -> RoutingChange | None:
    changes = [outcome.routing_changed for outcome in outcomes if outcome.routing_changed is not None]
    if not changes:
        return None
    return RoutingChange(sum(change.choices for change in changes), sum(change.changed for change in changes))


def _chance_row(task: str, domain: str, outcomes: Sequence[Outcome]) -> Row:
    n = sum(len(outcome.right) for outcome in outcomes)
    value = math.fsum(outcome.chance * len(outcome.right) for outcome in outcomes) / n
    first = outcomes[0]
    return Row(CHANCE, task, domain, first.role, first.metric, value, 0.0, n)
