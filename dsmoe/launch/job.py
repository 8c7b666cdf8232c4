"""A job: some cells, one after the other, each with its state on disk. It is all that submitit pickles."""

import importlib
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsmoe.config import ClusterConfig
from dsmoe.errors import InputError, SteeringError
from dsmoe.journal import job_id
from dsmoe.launch.frozen import Frozen
from dsmoe.launch.state import State, cause_of, now, spoils_process
from dsmoe.launch.submission import Submission
from dsmoe.progress import Advance, Reporter

SECONDS_BETWEEN_STATES = 10.0
TIRED = 3
"""How often in a row a job may run out of time before anything of it is finished."""
OURS = (InputError, SteeringError)
"""Errors that are sentences for users."""
ALMOST = 0.8
"""Of its time: who is told to stop later than that has run out of it, who is told before is preempted."""
EARLY = 60.0
"""Seconds that Slurm may send the signal before it is due."""


class Job:
    """Runs cells of a submission by `run`, a function named `module:function` that takes a frozen cell and a reporter.

    A cell that fails leaves its error in its state, and the next one is run, unless the GPU was lost with it.
    """

    def __init__(self, submission: str, cells: tuple[str, ...], run: str) -> None:
        self.submission = submission
        self.cells = cells
        self.run = run
        self._started = time.monotonic()
        self._now: _Cell | None = None

    def __reduce__(self) -> tuple[type["Job"], tuple[str, tuple[str, ...], str]]:
        return Job, (self.submission, self.cells, self.run)

    def __call__(self) -> None:
        """Run the cells. Ends the process with status 1 where one of them failed."""
        # Submitit listens now: a signal that came earlier arrives here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        folder = Path(self.submission)
        os.chdir(Submission.read(folder).directory)
        states = [self._settle(folder, cell) for cell in self.cells]
        if "failed" in states:
            raise SystemExit(1)

    def _settle(self, folder: Path, name: str) -> str:
        before = State.read(folder, name)
        if before.state in ("finished", "failed"):  # Before the job was put back into the queue.
            return before.state
        cell = self._now = _Cell(folder, name, before)
        try:
            cell.change(state="running", since=now(), doing="starts")
            frozen = Frozen.read(folder, name)
            module, _, function = self.run.partition(":")
            getattr(importlib.import_module(module), function)(frozen, JobReporter(cell))
        except Exception as error:  # Whatever it is: the other cells of the job have nothing to do with it.
            cell.change(state="failed", doing="", cause=cause_of(error), error=_words(error))
            sys.stderr.write(f"dsmoe: {error}\n" if isinstance(error, OURS) else traceback.format_exc())
            if spoils_process(error):
                raise SystemExit(1) from error
        else:
            cell.change(state="finished", doing="", fruitless=0)
        return cell.state.state

    def checkpoint(self) -> Any:
        """What runs when the job is started again: the same. Stages make that go on from where it stopped."""
        from submitit.helpers import DelayedSubmission

        cell = self._now
        if cell is not None and cell.state.state == "running":
            cluster = Frozen.read(cell.folder, cell.name).config.cluster
            ended = ran_out(cluster, time.monotonic() - self._started)
            fruitless = cell.state.fruitless + 1 if ended and not cell.finished else 0
            if fruitless >= TIRED:
                limit = f"cluster.time_minutes={cluster.time_minutes}"
                error = f"nothing was finished in {TIRED} runs that {limit} ended: raise it"
                cell.change(state="failed", cause="time", error=error, fruitless=fruitless)
                raise SystemExit(1)
            cell.change(state="requeued", doing="", fruitless=fruitless)
        return DelayedSubmission(self)


def ran_out(cluster: ClusterConfig, seconds: float) -> bool:
    """Whether a job that is told to stop after so many seconds ran out of time; it was preempted otherwise.

    A job with a limit of a minute or two is always taken to have run out of it.
    """
    return seconds >= ALMOST * (60 * cluster.time_minutes - cluster.signal_seconds - EARLY)


class _Cell:
    """The cell that the job is at: its state here and on disk, and how much of it this run of the job has finished."""

    def __init__(self, folder: Path, name: str, before: State) -> None:
        self.folder = folder
        self.name = name
        self.finished = 0
        self.state = replace(
            before,
            job=job_id() or "",
            host=platform.node(),
            pid=os.getpid(),
            requeued=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        )

    def change(self, **changes: Any) -> None:
        """Write what changed; `since` moves with the state, not with what it does."""
        if changes.get("state", self.state.state) != self.state.state:
            changes.setdefault("since", now())
        self.state = replace(self.state, **changes)
        self.state.write(self.folder, self.name)


class JobReporter(Reporter):
    """Says it in the log, and keeps what is being done in the cell's state."""

    def __init__(self, cell: _Cell) -> None:
        super().__init__()
        self.cell = cell

    def say(self, line: str) -> None:
        """One line in the log; what it waits for is also what the cell does."""
        super().say(line)
        if line.startswith("waits for "):
            self.cell.change(doing=line)

    @contextmanager
    def work(self, what: str) -> Iterator[Advance]:
        """As in any log, and in the state now and then."""
        self.cell.change(doing=what)
        last = time.monotonic()
        with super().work(what) as advance:

            def both(done: int, total: int, note: str = "") -> None:
                nonlocal last
                advance(done, total, note)
                if time.monotonic() - last >= SECONDS_BETWEEN_STATES:
                    last = time.monotonic()
                    self.cell.change(doing=f"{what}: {done} of {total}")

            yield both
        self.cell.finished += 1


def _words(error: Exception) -> str:
    """The error as one reads it: ours are sentences, others are named."""
    return str(error) if isinstance(error, OURS) else f"{type(error).__name__}: {error}"
