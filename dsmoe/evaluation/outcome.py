"""Outcomes: what methods answered, and the rows of a table that they make."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dsmoe.evaluation.statistics import standard_error
from dsmoe.results import CHANCE, POOLED_DOMAIN, POOLED_TASK, Role, RoutingChange, Row


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


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each outcome, for each method over all non-target questions, and the same for chance, which is first.

    Standard errors are lm-eval's where no two questions share a group, and those of groups where some do.
    """
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    guessed = first_of_each_task(outcomes)
    table = [_chance_row(outcome.task, outcome.domain, [outcome]) for outcome in guessed]
    if pooled := non_target(guessed):
        table.append(_chance_row(POOLED_TASK, POOLED_DOMAIN, pooled))
    for method in methods:
        answered = [outcome for outcome in outcomes if outcome.method == method]
        table += [_row(outcome.task, outcome.domain, [outcome]) for outcome in answered]
        if pooled := non_target(answered):
            table.append(_row(POOLED_TASK, POOLED_DOMAIN, pooled))
    return table


def first_of_each_task(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """One outcome a task: that of the method that stands first."""
    first: dict[str, Outcome] = {}
    for outcome in outcomes:
        first.setdefault(outcome.task, outcome)
    return list(first.values())


def non_target(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes on other domains than the target."""
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
