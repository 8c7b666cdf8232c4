"""Cells as Slurm jobs: what of a sweep is submitted, and what runs in a job."""

import logging
import math
import os
import platform
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from dsmoe.cell import Cell
from dsmoe.compare import run_cell
from dsmoe.compose import Composed
from dsmoe.config import ModelConfig
from dsmoe.disk import writing
from dsmoe.errors import InputError
from dsmoe.launch.frozen import Frozen
from dsmoe.launch.queue import cancel, has_slurm
from dsmoe.launch.slurm import Resources, chunks, submit
from dsmoe.launch.state import State, now
from dsmoe.launch.status import paragraph
from dsmoe.launch.submission import Array, Submission, here, new_folder
from dsmoe.launch.survey import BROKEN, UNSETTLED, Seen, counted, only, survey
from dsmoe.launch.wait import Place, wait
from dsmoe.methods import discovers
from dsmoe.models.fit import gigabytes, gpus, job_node, machine
from dsmoe.models.load import device_of
from dsmoe.models.needs import needs
from dsmoe.progress import Reporter, plain_warnings
from dsmoe.report.varied import varied
from dsmoe.stage import jobs_folder

RUN = "dsmoe.jobs:run_frozen"
PYTHON = 2e9
"""Bytes that Python and its libraries take beside the model."""
INTERRUPTED = 130


@dataclass(frozen=True)
class Work:
    """One cell to be launched, with the overrides that made it, and the keys that its command's cells differ in."""

    overrides: tuple[str, ...]
    cell: Cell
    sweep: tuple[str, ...] = ()

    @property
    def resources(self) -> Resources:
        """What its job gets: no more GPUs than the model needs, if all that it needs is counted."""
        config = self.cell.config
        there = machine(config.cluster, config.model)
        count = there.gpus
        if count and not config.fine_tunes:
            spread = config.vllm.tensor_parallel if config.backend == "vllm" else 1
            count = min(count, max(gpus(self._room, there.gpu_memory), spread))
        return Resources(config.cluster, count, self.cell.node.threads)

    @property
    def _room(self) -> int:
        """Bytes at the peak."""
        return needs(self.cell.config, discovers(self.cell.config)).total

    @property
    def fits(self) -> str:
        """What would hold it, for those whose memory ran out."""
        config = self.cell.config
        total, there = self._room, machine(config.cluster, config.model)
        counted = ", fine-tuning not counted" if config.fine_tunes else ""
        if there.gpus:
            room = f"cluster.gpus={gpus(total, there.gpu_memory)} of {there.gpu_memory / 1e9:.3g} GB"
        else:
            room = f"cluster.memory_gb={math.ceil((total + PYTHON) / 1e9)}"
        return (
            f"its weights and its largest batch want {gigabytes(total)}{counted}: {room} would hold them; or lower "
            "benchmark.batch_size, discovery.batch_tokens and sft.batch_size"
        )


Studies = dict[Place, dict[str, Work]]
"""What is launched, by where it lies and by its cell."""


def launch(composed: Sequence[Composed], reporter: Reporter, show: Callable[[Path], None]) -> int:
    """Submit every cell that is neither finished nor in the queue; then wait for all and show them, if so configured.

    All cells are checked before any is submitted. The status is 1 where one failed, 130 for Ctrl-C while waiting.
    """
    launcher = composed[0].launcher
    assert launcher is not None
    if not has_slurm():
        raise InputError("hydra/launcher: slurm is chosen, but there is no sbatch and squeue here; leave it out")
    studies: Studies = {}
    every = [Work(one.overrides, Cell(one.config, job_node(one.config))) for one in composed]
    sweep = varied([work.cell.content for work in every])
    for work in every:
        place = work.cell.results, work.cell.config.study
        studies.setdefault(place, {})[work.cell.id] = replace(work, sweep=sweep)
    for place, works in studies.items():
        _submit(place, works, works, reporter)
        reporter.say(f"look: dsmoe status {shlex.join([f'study={place[1]}', f'paths.results={place[0]}'])}")
    if not launcher.wait:
        return 0
    try:
        found = _settled(studies, reporter)
    except KeyboardInterrupt:
        reporter.say("interrupted; the jobs go on: the same command waits for them again, dsmoe status shows them")
        return INTERRUPTED
    failed = 0
    for place, works in studies.items():
        for cell, work in works.items():
            if (seen := found[place][cell]).condition == "finished":
                show(work.cell.folder)
            else:
                reporter.say(paragraph(seen))
                failed = 1
    return failed


def run_frozen(frozen: Frozen, reporter: Reporter) -> None:
    """Run a frozen cell, as in process.

    Raises InputError where code, data or the node are not what they were, or were said to be, at submission.
    """
    import torch

    plain_warnings()
    logging.getLogger("submitit").propagate = False  # It has a handler of its own.
    frozen.check_origin()
    torch.set_num_threads(frozen.threads)
    if (device := device_of(frozen.config.model)) != frozen.device:
        node = os.environ.get("SLURMD_NODENAME", platform.node())
        raise InputError(
            f"cell {frozen.cell}: it was submitted for {frozen.device}, but torch sees {device} on {node}; "
            f"dsmoe doctor on that node says why, +cluster.sbatch.exclude={node} keeps jobs from it"
        )
    cell = Cell(frozen.config)
    if cell.id != frozen.cell:
        raise InputError(
            f"cell {frozen.cell}: the files that it names changed since it was submitted: it would now be {cell.id}; "
            "the same command again submits that"
        )
    run_cell(cell, reporter, frozen.sweep)


def _settled(studies: Studies, reporter: Reporter) -> dict[Place, dict[str, Seen]]:
    """What became of all cells, once those that it may help were tried again as often as their config wants."""
    tries: Counter[tuple[Place, str]] = Counter()

    def to_retry(place: Place, work: Work) -> bool:
        seen = found[place][work.cell.id]
        # What is wrong with the input, or too large, would fail the same way again.
        may_help = seen.condition in BROKEN and seen.cause in ("", "error")
        return may_help and tries[place, work.cell.id] < work.cell.config.cluster.retries

    while True:
        found = wait({place: list(works) for place, works in studies.items()}, reporter)
        again = {
            place: [cell for cell, work in works.items() if to_retry(place, work)] for place, works in studies.items()
        }
        if not any(again.values()):
            return found
        for place, cells in again.items():
            tries.update((place, cell) for cell in cells)
            if cells:
                _submit(place, studies[place], cells, reporter)


def _submit(place: Place, works: Mapping[str, Work], chosen: Collection[str], reporter: Reporter) -> None:
    """Submit those of the chosen cells that are neither finished nor in the queue, and say what was done."""
    results, study = place
    folder = jobs_folder(results, study)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Two commands at once would both find the same cells missing.
        with FileLock(folder / ".lock"):
            found = only(survey(results, study, submitting=True), works)
            missing = [works[cell] for cell in chosen if found[cell].condition not in ("finished", *UNSETTLED)]
            others = [seen for cell, seen in found.items() if works[cell] not in missing]
            if others:
                reporter.say(f"not submitted: {counted(others)}")
            if missing:
                cancel(found[work.cell.id].job for work in missing if found[work.cell.id].held)
                submission = _sent(results, study, missing)
                for array in submission.arrays:
                    count, jobs = sum(map(len, array.jobs)), len(array.jobs)
                    named = f"{jobs} jobs, {array.id}_[0-{jobs - 1}]" if jobs > 1 else f"job {array.id}"
                    reporter.say(f"submitted: {count} cell{'s' * (count > 1)} in {named}")


def _sent(results: Path, study: str, works: Sequence[Work]) -> Submission:
    """The works as jobs in Slurm's queue. Where none gets there, nothing is left behind."""
    folder = new_folder(results, study)
    resources: dict[Resources, list[tuple[str, ...]]] = {}
    by_model: dict[tuple[Resources, ModelConfig], list[str]] = {}
    for work in works:
        by_model.setdefault((work.resources, work.cell.config.model), []).append(work.cell.id)
    for (wanted, _), cells in by_model.items():
        size = wanted.cluster.cells_per_job
        resources.setdefault(wanted, []).extend(
            tuple(cells[start : start + size]) for start in range(0, len(cells), size)
        )
    arrays = {
        Array(f"dsmoe-{folder.name}-{number}", part): wanted
        for number, (wanted, part) in enumerate(
            (wanted, part)
            for wanted, every in resources.items()
            for part in chunks(every, wanted.cluster.max_array_size)
        )
    }
    overrides = {work.cell.id: list(work.overrides) for work in works}
    submission = Submission(folder, here(), overrides, tuple(arrays))
    sent: list[Array] = []
    try:
        for work in works:
            cell = work.cell
            Frozen.of(cell.id, cell.config, cell.node.device, cell.node.threads, work.fits, work.sweep).write(folder)
            State("submitted", now()).write(folder, cell.id)
        submission.write()
        for array, wanted in arrays.items():
            sent.append(submit(wanted, array, folder, RUN))
            submission = submission.with_array(sent[-1])
            submission.write()
    except InputError:
        if sent:
            replace(submission, arrays=tuple(sent)).write()
        else:
            shutil.rmtree(folder)
        raise
    return submission
