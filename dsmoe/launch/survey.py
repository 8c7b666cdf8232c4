"""What became of every cell of a study: from its folder, its job's last word, and the queue."""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dsmoe.launch.queue import Place, Queued, accounts, has_slurm, queued
from dsmoe.launch.state import Cause, State, now
from dsmoe.launch.submission import Array, Submission, submissions

Condition = Literal["finished", "running", "queued", "failed", "lost", "missing"]
UNSETTLED = ("running", "queued")
BROKEN = ("failed", "lost")
KILLED = 137
"""The status of a process that got SIGKILL: where nobody sent it by hand, the kernel did, for memory."""
GRACE = 60.0
"""Seconds that a command may take between naming its jobs and handing them to Slurm."""


@dataclass(frozen=True)
class Seen:
    """One cell: in what condition it is since when, and where its job, if it has one, keeps its log.

    `missing` is a cell that was finished once and whose folder is gone; `held` is one that is lost though its job is
    in the queue, where Slurm will not start it.
    """

    cell: str
    condition: Condition
    since: str = ""
    job: str = ""
    host: str = ""
    doing: str = ""
    cause: Cause = ""
    error: str = ""
    requeued: int = 0
    held: bool = False
    log: Path | None = None
    submission: Submission | None = None

    @property
    def overrides(self) -> tuple[str, ...]:
        """The overrides that made it, none where no job did."""
        return tuple(self.submission.overrides[self.cell]) if self.submission else ()


def survey(results: Path, study: str, submitting: bool = False) -> dict[str, Seen]:
    """Every cell of the study that is finished, or that was ever submitted, as its last submission left it.

    `submitting` says that nobody else is submitting now, so that what is not in the queue never got there. Without
    Slurm, what is running or queued is as it was written last. Raises InputError where Slurm does not answer.
    """
    last: dict[str, tuple[Submission, Array, int, State]] = {}
    for submission in submissions(results, study):
        for array in submission.arrays:
            for index, job in enumerate(array.jobs):
                last |= {cell: (submission, array, index, State.read(submission.folder, cell)) for cell in job}
    open_arrays = {array.name for _, array, _, state in last.values() if state.state not in ("finished", "failed")}
    # The queue first, then the disk again: a job that has left the queue has said its last word before.
    queue = queued(open_arrays) if has_slurm() else None
    # Under its name alone is a folder whole: as .NAME.partial it has its status.json a moment before.
    done = {path.parent.name for path in (results / study).glob("[!.]*/status.json")}
    found = {cell: Seen(cell, "finished") for cell in sorted(done - last.keys())}
    for cell, (submission, array, index, _) in last.items():
        state = State.read(submission.folder, cell)
        seen = Seen(
            cell,
            "finished",
            since=state.since,
            job=array.job_id(index),
            host=state.host,
            requeued=state.requeued,
            log=array.log(submission.folder, index),
            submission=submission,
        )
        if cell not in done:
            seen = _unfinished(seen, state, array, index, queue, submitting)
        found[cell] = seen
    return found


def _unfinished(
    seen: Seen, state: State, array: Array, index: int, queue: Mapping[Place, Queued] | None, submitting: bool
) -> Seen:
    if state.state == "finished":
        return replace(seen, condition="missing")
    if state.state == "failed":
        return replace(seen, condition="failed", cause=state.cause, error=state.error)
    if queue is None:
        return replace(seen, condition="running" if state.state == "running" else "queued", doing=state.doing)
    place = queue.get((array.name, index))
    return _gone(seen, state, array, index, submitting) if place is None else _alive(seen, state, place)


def _alive(seen: Seen, state: State, place: Queued) -> Seen:
    """A cell whose job is in the queue, waiting or running."""
    if place.held:
        error = f"its node could not start it, and Slurm holds it: {place.reason}; the same command again replaces it"
        return replace(seen, condition="lost", error=error, held=True)
    if place.waits:
        again = "again, " if state.state != "submitted" else ""
        return replace(seen, condition="queued", doing=f"{again}{place.reason}")
    if state.state == "running":
        return replace(seen, condition="running", doing=state.doing)
    return replace(seen, condition="queued", host=place.nodes, doing="its job starts, or runs another cell")


def _gone(seen: Seen, state: State, array: Array, index: int, submitting: bool) -> Seen:
    """A cell without an outcome whose job is in no queue."""
    assert seen.submission is not None
    if not array.id:
        made = (seen.submission.folder / "submission.json").stat().st_mtime
        if not submitting and time.time() - made < GRACE:
            return replace(seen, condition="queued", doing="is being submitted")
        return replace(seen, condition="lost", error="it never reached the queue", log=None)
    if state.state == "submitted" and len(array.jobs[index]) > 1:
        return replace(seen, condition="lost", error="its job ended before its turn came")
    return _killed(seen, _exit_code(array.exit_file(seen.submission.folder, index), state.requeued))


def _killed(seen: Seen, code: int | None) -> Seen:
    """A cell whose job began and had no time to say how it ended; Python's exit status may say it, or Slurm."""
    ended = accounts(seen.job)
    if ended == "OUT_OF_MEMORY":
        return replace(seen, condition="failed", cause="memory", error="Slurm says OUT_OF_MEMORY")
    if code == KILLED and ended in ("", "FAILED"):
        error = f"killed, exit status {KILLED}: memory ran out, unless somebody killed it by hand"
        return replace(seen, condition="failed", cause="memory", error=error)
    if ended == "TIMEOUT":
        return replace(seen, condition="lost", cause="time", error="Slurm says TIMEOUT: it did not stop when told to")
    trace = f"exit status {code}" if code is not None else "without a trace"
    if seen.log is not None and not os.access(seen.log.parent, os.W_OK):
        trace += f", and nothing can be written to {seen.log.parent} from here"
    return replace(seen, condition="lost", error=f"killed {trace}" + (f"; Slurm says {ended}" if ended else ""))


def _exit_code(path: Path, run: int) -> int | None:
    """With what status Python ended in the job's last run, None where its script was killed with it.

    None too where the disk was full: the file is then empty, or ends too early.
    """
    said = path.read_text(encoding="utf-8").split() if path.exists() else []
    if len(said) != 2 or int(said[1]) < run:
        return None
    return int(said[0])


def only(found: Mapping[str, Seen], cells: Iterable[str]) -> dict[str, Seen]:
    """What is known of these cells; `missing` where nothing is."""
    return {cell: found.get(cell, Seen(cell, "missing", since=now())) for cell in cells}


def counted(seen: Iterable[Seen]) -> str:
    """How many cells are in which condition, in words."""
    conditions = [one.condition for one in seen]
    order: tuple[Condition, ...] = ("finished", "running", "queued", "failed", "lost", "missing")
    counts = [f"{conditions.count(condition)} {condition}" for condition in order if condition in conditions]
    return ", ".join(counts) or "none"
