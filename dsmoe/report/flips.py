"""Flips: the questions that one method has right and another has wrong, with their text."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsmoe.domains.prompts import continuations
from dsmoe.evaluation.samples import Sample, read_samples
from dsmoe.report.collection import Entry
from dsmoe.report.kept import Question, read_questions
from dsmoe.results import Comparison

SHOWN = 10
"""Questions of either kind that are shown of a comparison."""
LONGEST = 600
"""Letters of a text that are shown."""


@dataclass(frozen=True)
class Flip:
    """One question that came out otherwise; `gained` where the method has it right more often than the baseline."""

    question: Question
    gained: bool
    baseline: str
    method: str


@dataclass(frozen=True)
class Flips:
    """All flips of one comparison, in the order of the questions; `baseline` and `method` of a flip are answers."""

    comparison: Comparison
    all: tuple[Flip, ...]

    @property
    def title(self) -> str:
        """What is compared, and where."""
        where = self.comparison.domain or "all other domains"
        return f"{self.comparison.method} against {self.comparison.baseline} on {where}"

    @property
    def shown(self) -> list[tuple[str, int, list[Flip]]]:
        """Gained and lost: how many there are, and the first of them."""
        parts = {"gained": True, "lost": False}
        found = {name: [one for one in self.all if one.gained is gained] for name, gained in parts.items()}
        return [(name, len(flips), flips[:SHOWN]) for name, flips in found.items()]


def flips(entry: Entry) -> list[Flips]:
    """The flips of the primary comparisons and of dsmoe against base elsewhere; none where questions were not kept."""
    path = entry.folder / "questions.parquet"
    if not path.exists():
        return []
    questions = {one.record_id: one for one in read_questions(path)}
    answers: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in read_samples(entry.folder / "samples.parquet"):
        answers[sample.method][sample.record_id].append(sample)
    elsewhere = entry.comparison("dsmoe", "base", "non_target")
    wanted = [one for one in entry.results.comparisons if one.family == "primary"]
    return [
        Flips(one, tuple(_flips(one, questions, answers[one.baseline], answers[one.method], entry.results.config)))
        for one in [*wanted, *([elsewhere] if elsewhere else [])]
    ]


def _flips(
    comparison: Comparison,
    questions: Mapping[str, Question],
    baseline: Mapping[str, Sequence[Sample]],
    method: Mapping[str, Sequence[Sample]],
    config: Mapping[str, Any],
) -> list[Flip]:
    found = []
    for record, samples in method.items():
        if (samples[0].domain == config["domain"]) != (comparison.role == "target"):
            continue
        before, after = _right(baseline[record]), _right(samples)
        if before != after:
            question = questions[record]
            answers = [_answer(question, of, config["benchmark"]) for of in (baseline[record], samples)]
            found.append(Flip(question, after > before, *answers))
    return found


def _right(samples: Sequence[Sample]) -> float:
    return math.fsum(sample.score == 1 for sample in samples)


def _answer(question: Question, samples: Sequence[Sample], benchmark: Mapping[str, Any]) -> str:
    """The option that the metric takes, or the end of what was generated; of several answers how many are right."""
    first = samples[0]
    if len(samples) > 1:
        return f"{_right(samples):.0f} of {len(samples)} right"
    if (scores := first.log_likelihoods) is not None:
        if benchmark["metric"] == "acc_norm":
            texts = continuations(question.options, benchmark["task"])
            scores = tuple(score / len(text) for score, text in zip(scores, texts, strict=True))
        return question.options[scores.index(max(scores))]
    return (first.response or "").strip()[-LONGEST:]
