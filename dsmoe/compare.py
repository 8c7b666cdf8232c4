"""The main job: discover → steer → fine-tune → evaluate → compare, for one cell."""

import math
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dsmoe.cell import Cell
from dsmoe.domains.records import Record, content_hash
from dsmoe.evaluation.comparison import compare
from dsmoe.evaluation.outcome import Outcome, rows
from dsmoe.evaluation.samples import Sample, write_samples
from dsmoe.journal import Journal
from dsmoe.methods import Trial
from dsmoe.progress import Reporter
from dsmoe.provenance import git_commit, versions
from dsmoe.report.kept import Expert, write_experts, write_questions
from dsmoe.report.table import csv_text, markdown
from dsmoe.results import Results, Specificity
from dsmoe.session import Answers, Session
from dsmoe.stage import is_finished, journal_file, write_whole
from dsmoe.steering.steering import Steering
from dsmoe.tracking.mirror import Mirror, track


def run_cell(cell: Cell, reporter: Reporter, sweep: tuple[str, ...] = ()) -> Results:
    """Compare the cell's methods, or read what an earlier run found; the results lie in `cell.folder`.

    `sweep` are the keys that cells of the same command differ in: wandb shows them, no result has them.
    """
    # Of a cell that is finished there is no more to tell.
    path = None if is_finished(cell.folder) else journal_file(cell.results, cell.config.study, cell.id)
    journal = Journal(path, asdict(cell.node))

    def make(folder: Path) -> None:
        session = Session(cell, reporter, journal)
        samples: list[Sample] = []
        outcomes: list[Outcome] = []
        experts: list[Expert] = []
        # What cannot be steered is refused before anybody is asked a test question.
        steerings = {trial.method: session.steering(trial) for trial in map(Trial, cell.config.methods)}
        answered = {method: session.answers(Trial(method)) for method in steerings if method != "sft"}
        specificity = _specificity(cell, session)
        # Other weights want another engine, of which there is one at a time: they come last.
        answered |= {method: session.answers(Trial(method)) for method in steerings if method == "sft"}
        for method, steering in steerings.items():
            for answers in answered[method]:
                samples += answers.samples
                outcomes.append(_outcome(cell, answers, steering))
            if steering is not None:
                steering.save(folder / f"steering-{method}.json")
                experts += _experts(method, steering, session)
        results = Results(
            cell=cell.id,
            config=cell.content,
            provenance=_provenance(cell, session),
            rows=tuple(rows(outcomes)),
            comparisons=tuple(compare(outcomes, cell.config.seed)),
            specificity=specificity,
            choices={method: choice for method in cell.config.methods if (choice := session.choice(method))},
        )
        results.write(folder / "results.json")
        write_samples(samples, folder / "samples.parquet")
        write_questions(_questions(cell), folder / "questions.parquet")
        write_experts(experts, folder / "experts.parquet")
        (folder / "table.md").write_text(markdown(results), encoding="utf-8")
        (folder / "table.csv").write_text(csv_text(results), encoding="utf-8")

    write_whole(cell.folder, cell.content, make, reporter.say, journal.about(stage="compare", hash=cell.id))
    track(Mirror(cell.results, cell.config.study, cell.id, sweep), cell.config.tracking, reporter.say)
    return Results.read(cell.folder / "results.json")


def _outcome(cell: Cell, answers: Answers, steering: Steering | None) -> Outcome:
    """A method's right answers on one task."""
    first = answers.samples[0]
    right: Counter[tuple[int, str, str]] = Counter()
    for sample in answers.samples:
        right[sample.doc_id, sample.doc_hash, sample.record_id] += sample.score == 1
    generated = first.response is not None
    group = {record.id: record.group for record in cell.inputs.questions("test", first.domain).records}
    return Outcome(
        method=first.method,
        task=first.task,
        domain=first.domain,
        role="target" if first.domain == cell.config.domain else "non_target",
        metric=cell.config.benchmark.metric,
        doc_ids=tuple(doc_id for doc_id, _, _ in right),
        doc_hashes=tuple(doc_hash for _, doc_hash, _ in right),
        groups=tuple(group[record_id] for _, _, record_id in right),
        right=tuple(right.values()),
        chance=math.fsum(1 / s.num_options for s in answers.samples if s.num_options) / len(answers.samples),
        samples=cell.config.generation.samples,
        truncated=sum(sample.truncated is True for sample in answers.samples) if generated else None,
        unanswered=sum(sample.answered is False for sample in answers.samples) if generated else None,
        strength=steering.strength if steering else None,
        num_experts=steering.total_experts if steering else None,
        mode=steering.mode if steering else None,
        routing_changed=answers.routing_changed,
    )


def _questions(cell: Cell) -> list[Record]:
    """The test questions, domain by domain."""
    return [record for domain in cell.inputs.domains for record in cell.inputs.questions("test", domain).records]


def _experts(method: str, steering: Steering, session: Session) -> list[Expert]:
    """Every expert of the profile that a method steers by; those steered alone where there is no profile."""
    steered = {(layer, expert) for layer, chosen in steering.experts.items() for expert in chosen}
    if (recipe := session.cell.inputs.recipe(method)) is None:
        return [Expert(method, layer, expert, None, True) for layer, expert in sorted(steered)]
    profile = session.profile(recipe)
    return [
        Expert(method, layer, expert, score, (layer, expert) in steered)
        for layer, scores in zip(profile.layers, profile.scores.tolist(), strict=True)
        for expert, score in enumerate(scores)
    ]


def _specificity(cell: Cell, session: Session) -> Specificity | None:
    """Where dsmoe stands on the target among the random control's draws."""
    if not cell.agenda.draws:
        return None
    trials = [Trial("dsmoe"), Trial("random"), *cell.agenda.draws]
    value, *draws = (_accuracy(session.answers(trial, [cell.config.domain])) for trial in trials)
    return Specificity(value, tuple(draws), sum(value > draw for draw in draws))


def _accuracy(answers: Sequence[Answers]) -> float:
    (one,) = answers
    return math.fsum(sample.score for sample in one.samples) / len(one.samples)


def _provenance(cell: Cell, session: Session) -> dict[str, Any]:
    """What made the results, so that another can make them again, and what discovery and fine-tuning saw."""
    splits, methods = cell.inputs.splits, set(cell.config.methods)
    return {
        "versions": versions(),
        "git_commit": git_commit(),
        "platform": platform.platform(),
        "model": cell.model_key,
        "backend": cell.backend_key or {"backend": "transformers"},
        "seeds": {"config": cell.config.seed},
        "data": {split: content_hash(getattr(splits, split)) for split in ("discover", "dev", "test")},
        "questions": {split: len(getattr(splits, split)) for split in ("discover", "dev", "test")},
        "discovery": {
            method: session.profile(recipe).report.to_json()
            for method in cell.config.methods
            if (recipe := cell.inputs.recipe(method))
        },
        "fine_tuning": session.training() if "sft" in methods else None,
        "stages": sorted(str(stage.folder(Path("."))) for stage in cell.stages),
    }
