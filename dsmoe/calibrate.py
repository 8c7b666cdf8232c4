"""Calibration: how often the instrument is right and wrong, on a model whose truth is planted and on known nulls."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dsmoe import plugins
from dsmoe.analysis.calibration import METHODS, Candidate, Kept, Right, false_alarms, power
from dsmoe.analysis.recovery import auroc, precision_at
from dsmoe.cell import Cell
from dsmoe.compare import run_cell
from dsmoe.compose import Composed
from dsmoe.config import Config
from dsmoe.discovery.rule import RULES
from dsmoe.errors import InputError
from dsmoe.methods import Recipe, Trial, candidates, open_settings, settings
from dsmoe.models.planted import PLANTED, PlantedExperts
from dsmoe.progress import Reporter
from dsmoe.report.calibration import figure, markdown
from dsmoe.session import Answers, Session
from dsmoe.stage import Stage
from dsmoe.tracking.mirror import Mirror, track
from dsmoe.verbs import in_process, outputs

CALIBRATE = 1
FILE, TABLE, FIGURE = "calibration.json", "calibration.md", "calibration.svg"


def calibrate(composed: Sequence[Composed]) -> int:
    """Measure recovery, false alarms and power, and show the table. Several minutes a planted model.

    Raises InputError for a model without a planted truth, and where nothing is left to be chosen on dev.
    """
    reporter, console = outputs()
    config = in_process("calibrate", composed).config
    pretrain = config.model.pretrain
    if pretrain is None or pretrain.planted_loss is None:
        raise InputError("model: calibrate wants a planted truth; choose model=planted")
    kept = Cell(replace(config, methods=METHODS))
    if not open_settings(settings("dsmoe", kept.config)):
        raise InputError("steering.strength: calibrate judges the choice on dev too; leave it at auto")
    cells = [_planted(config, seed) for seed in range(config.calibration.seeds)]
    stage = Stage(
        "calibrate",
        CALIBRATE,
        {"kept": kept.id, "planted": [cell.id for cell in cells], **asdict(config.calibration)},
    )

    def make(folder: Path) -> None:
        found = {
            "domain": config.domain,
            "recovery": [_recovery(cell, reporter) for cell in cells],
            **_studies(kept, reporter),
        }
        (folder / FILE).write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (folder / TABLE).write_text(markdown(found), encoding="utf-8")
        figure(found, folder / FIGURE)

    folder = stage.run(kept.results, make, reporter.say)
    track(Mirror.of_stage(folder), config.tracking, reporter.say)
    console.print((folder / TABLE).read_text(encoding="utf-8"), markup=False, soft_wrap=True)
    console.print(f"calibration: {folder}", markup=False, soft_wrap=True)
    return 0


def _planted(config: Config, seed: int) -> Cell:
    """The comparison on the target of one planted model, at the fixed strength that is not chosen."""
    pretrain = config.model.pretrain
    assert pretrain is not None
    return Cell(
        replace(
            config,
            model=replace(config.model, pretrain=replace(pretrain, seed=seed)),
            benchmark=replace(config.benchmark, non_target=()),
            steering=replace(config.steering, strength=config.calibration.strength),
            methods=("base", "dsmoe", "random", "oracle"),
        )
    )


def _recovery(cell: Cell, reporter: Reporter) -> dict[str, Any]:
    """How well every rule finds the planted experts, and what steering toward found and planted ones does."""
    session, domain = Session(cell, reporter), cell.config.domain
    pretrain = cell.config.model.pretrain
    assert pretrain is not None
    planted = PlantedExperts.load(session.pretrained() / PLANTED)
    rules = {}
    for rule in plugins.names(RULES):
        profile = session.profile(Recipe(rule, domain))
        truth = planted.mask(domain, profile.layers, profile.scores.shape[1])
        rules[rule] = {
            "auroc": auroc(profile.scores, truth),
            "precision": precision_at(profile.scores, truth, int(truth.sum())),
        }
    results = run_cell(cell, reporter)
    against_base = next(one for one in results.comparisons if one.family == "primary")
    assert results.specificity is not None
    return {
        "seed": pretrain.seed,
        "rules": rules,
        "accuracy": {row.method: row.value for row in results.rows if row.role == "target"},
        "p_adjusted": against_base.p_adjusted,
        "verdict": against_base.verdict,
        "draws": len(results.specificity.draws),
        "above": results.specificity.above,
    }


def _studies(cell: Cell, reporter: Reporter) -> dict[str, Any]:
    """False alarms and power, from studies that are made of what methods answered on one planted model."""
    kept, config = _kept(Session(cell, reporter)), cell.config
    wanted = config.calibration
    with reporter.work(f"calibrate: {wanted.studies} studies without any difference"):
        alarms = false_alarms(kept, wanted.studies, config.seed)
    powers = []
    for effect in wanted.effects:
        with reporter.work(f"calibrate: {wanted.studies} studies with a gain of {100 * effect:g} points"):
            powers.append({"effect": effect, **asdict(power(kept, effect, wanted.studies, config.seed))})
    return {"questions": len(kept.groups), "false_alarms": asdict(alarms), "power": powers}


def _kept(session: Session) -> Kept:
    """What base, sft, other_domain and every candidate for dsmoe answered, on dev and on the target's test split."""
    target, of = session.config.domain, settings("dsmoe", session.config)
    assert of is not None

    def dev(trial: Trial) -> list[Answers]:
        return session.answers(replace(trial, split="dev"))

    def test(trial: Trial) -> list[Answers]:
        return session.answers(trial, [target])

    base, sft = Trial("base"), Trial("sft")
    kept = []
    for candidate in candidates(of):
        trials = [base, sft, Trial("dsmoe", settings=candidate), Trial("other_domain", settings=candidate)]
        on_dev = [dev(trial) for trial in (base, trials[2])]
        kept.append(
            Candidate(
                settings={name: getattr(candidate, name) for name in open_settings(of)},
                dev_target=_right([answers[:1] for answers in on_dev]),
                dev_others=_right([answers[1:] for answers in on_dev]),
                test=_right([test(trial) for trial in trials]),
            )
        )
    group = {record.id: record.group for record in session.cell.inputs.questions("test", target).records}
    (answered,) = test(base)
    return Kept(kept, tuple(group[sample.record_id] for sample in answered.samples))


def _right(methods: Sequence[Sequence[Answers]]) -> Right:
    """Whose answers are right, [methods, questions]."""
    return np.array([[sample.score == 1 for answers in one for sample in answers.samples] for one in methods])
