"""Evaluation, beside lm-eval's own HFLM on the same requests; and a sweep of strengths."""

import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from measure import Measure, cost, in_turn, seconds
from rich.console import Console

from dsmoe.cell import Cell
from dsmoe.compare import run_cell
from dsmoe.compose import compose_cells
from dsmoe.evaluation.evaluate import evaluate
from dsmoe.methods import Trial
from dsmoe.models.load import let_go
from dsmoe.progress import Reporter
from dsmoe.session import Session

STRENGTHS = (0.1, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 9, 19, 49)
ROUNDS = 15
QUICK = "model.pretrain.steps=100"
"""What it has learned is of no matter to how long it takes to answer."""


def silent() -> Reporter:
    """A reporter whose words nobody sees."""
    return Reporter(Console(file=io.StringIO()))


def evaluation_measures() -> list[Measure]:
    """One domain's questions: ours, and HFLM alone."""
    with tempfile.TemporaryDirectory() as folder:
        cell = _cell(folder, "model.pretrain.steps=20", "domain=geography")
        session = Session(cell, silent())
        loaded, task = session.loaded, cell.inputs.task("test", "geography")
        config = cell.config

        def ours() -> None:
            evaluate(loaded, task, "base", config.benchmark, config.generation, config.seed)

        def alone() -> None:
            model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=config.benchmark.batch_size)
            tasks = TaskManager(include_defaults=False).load([task.config])
            with contextlib.redirect_stderr(io.StringIO()):
                lm_eval.evaluate(lm=model, task_dict=tasks, bootstrap_iters=0)

        return [Measure("evaluation, time", "lm-eval's HFLM alone", cost(in_turn(ours, alone, ROUNDS)), "≤ 1.05")]


def sweep_measures() -> list[Measure]:
    """Twelve strengths: cold, beside its distinct evaluations alone, cell by cell in turn; and again."""
    with tempfile.TemporaryDirectory() as folder:
        pretrained = Session(_cell(folder, QUICK), silent()).pretrained()
        cold, warm = Path(folder) / "cold", Path(folder) / "warm"
        for results in (cold, warm):
            shutil.copytree(pretrained, results / "stages" / "pretrain" / pretrained.name)
        evaluations = [_evaluations(cell, number == 0) for number, cell in enumerate(_cells(warm))]
        let_go()
        began = time.perf_counter()
        cells = _cells(cold)
        taken, alone = time.perf_counter() - began, 0.0
        for cell, ours in zip(cells, evaluations, strict=True):
            taken += seconds(partial(_run, [cell]))
            alone += sum(map(seconds, ours))
        again = [seconds(lambda: _run(_cells(cold))) for _ in range(3)]
    return [
        Measure("sweep of 12 strengths, cold, time", "its 14 evaluations alone", [taken / alone], "≤ 1.15"),
        Measure("the same sweep again", "", again, "≤ 2 s", "s"),
    ]


def _evaluations(cell: Cell, first: bool) -> list[Callable[[], Any]]:
    """What a cell asks that none before it did, ready to be asked: all that it wants is made, and the model loaded."""
    session = Session(cell, silent())
    session.steering(Trial("dsmoe"))
    session.training()
    assert session.loaded
    return [partial(session.answers, Trial(method)) for method in (cell.config.methods if first else ("dsmoe",))]


def _cells(results: Path) -> list[Cell]:
    strengths = ",".join(map(str, STRENGTHS))
    overrides = [f"paths.results={results}", QUICK, "methods=[base,sft,dsmoe]", f"steering.strength={strengths}"]
    return [Cell(one.config) for one in compose_cells([*overrides, "tracking.mode=disabled"], multirun=True)]


def _run(cells: list[Cell]) -> None:
    for cell in cells:
        run_cell(cell, silent())


def _cell(results: str, *overrides: str) -> Cell:
    (one,) = compose_cells([f"paths.results={results}", "methods=[base]", "tracking.mode=disabled", *overrides])
    return Cell(one.config)
