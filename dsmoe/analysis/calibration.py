"""How often the instrument is right and wrong: studies made from kept outcomes, in which the truth is known.

No model is asked anything: what methods answered once is kept, and each study hands it out anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsmoe.evaluation.choice import Point, choose
from dsmoe.evaluation.comparison import compare
from dsmoe.evaluation.outcome import Outcome
from dsmoe.results import Comparison

Right = NDArray[np.bool_]
"""Right or wrong, [methods, questions]."""

METHODS = ("base", "sft", "dsmoe", "other_domain")
"""The methods of the primary family, in the order of the rows of kept answers on test."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """What was kept of one candidate for steering, such as one strength.

    `dev_target` and `dev_others` are base's and the candidate's answers [2, questions] on dev, `test` those of METHODS
    [4, questions] on the target's test questions.
    """

    settings: Mapping[str, float]
    dev_target: Right
    dev_others: Right
    test: Right


@dataclass(frozen=True, eq=False)
class Kept:
    """All candidates, smaller ones first, and the groups that the target's test questions belong to."""

    candidates: Sequence[Candidate]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rate:
    """In how many of so many studies something was found."""

    found: int
    studies: int

    @property
    def share(self) -> float:
        """The fraction."""
        return self.found / self.studies


def false_alarms(kept: Kept, studies: int, seed: int) -> Rate:
    """How many studies without any true difference have a verdict in the primary family that is not `no evidence`.

    In each study the answers to each question are handed out to the methods at random: base's and the candidate's on
    dev, all four methods' on test.
    """
    generator = np.random.default_rng(seed)
    found = sum(
        any(one.verdict != "no evidence" for one in _study(kept, generator, effect=0.0)) for _ in range(studies)
    )
    return Rate(found, studies)


def power(kept: Kept, effect: float, studies: int, seed: int) -> Rate:
    """How many studies find dsmoe `better` than base where its true gain on the target is `effect`, a fraction.

    As for false alarms, but then answers of dsmoe that are wrong come out right, as often as makes that gain.
    """
    generator = np.random.default_rng(seed)
    found = 0
    for _ in range(studies):
        against_base, *_ = _study(kept, generator, effect)
        found += against_base.verdict == "better"
    return Rate(found, studies)


def _study(kept: Kept, generator: np.random.Generator, effect: float) -> list[Comparison]:
    """The primary family of one study: the choice on dev, then the comparison on test."""
    points, of = [], {}
    for candidate in kept.candidates:
        target = _gain(_shuffled(candidate.dev_target, generator), 1, effect, generator)
        others = _shuffled(candidate.dev_others, generator)
        n_others = others.shape[1]
        gain = float(others[1].mean() - others[0].mean()) if n_others else None
        points.append(Point(candidate.settings, float(target[1].mean()), target.shape[1], gain, n_others))
        of[id(points[-1])] = candidate
    chosen = of[id(choose(points))]
    test = _gain(_shuffled(chosen.test, generator), METHODS.index("dsmoe"), effect, generator)
    outcomes = [_outcome(method, row, kept.groups) for method, row in zip(METHODS, test, strict=True)]
    return [one for one in compare(outcomes, seed=0) if one.family == "primary"]


def _shuffled(right: Right, generator: np.random.Generator) -> Right:
    """Each question's answers, handed out to the methods at random."""
    return generator.permuted(right, axis=0)


def _gain(right: Right, row: int, effect: float, generator: np.random.Generator) -> Right:
    """The same with wrong answers of one method turned right, each as likely as makes the gain, if that can be."""
    wrong = ~right[row]
    share = wrong.mean()
    turned = wrong & (generator.random(len(wrong)) < (min(1.0, effect / share) if share else 0.0))
    gained = right.copy()
    gained[row] |= turned
    return gained


def _outcome(method: str, right: Right, groups: tuple[str, ...]) -> Outcome:
    questions = range(len(right))
    return Outcome(
        method=method,
        task="target",
        domain="target",
        role="target",
        metric="acc",
        doc_ids=tuple(questions),
        doc_hashes=tuple(map(str, questions)),
        groups=groups,
        right=tuple(map(int, right)),
        chance=0.0,
    )
