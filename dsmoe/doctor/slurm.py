"""Slurm: whether it answers, what it remembers and allows, and whether its nodes see what this one does."""

import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from dsmoe.doctor.finding import Finding, ask, module, ok, trouble, warning
from dsmoe.doctor.folder import held_folder, seen

RUN = 60
SECONDS = {"PENDING": 30, "": 15}
"""How long the job may be in a state. What it wrote before it ended may be seen here only after a while."""
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
FORGOTTEN = "Invalid job id"
OPTIONS = "SBATCH_PARTITION and SBATCH_ACCOUNT name others than the defaults"


def slurm(results: Path | None) -> Iterator[Finding]:
    """What Slurm is like here. With `results`, a job is sent there that looks at that folder."""
    if shutil.which("sbatch") is None:
        yield ok("no Slurm: sbatch is not on PATH")
        return
    partitions = ask("sinfo", "--noheader", "--format=%P: %D nodes of %c processors, %G")
    if partitions.failure:
        yield trouble(
            f"Slurm does not answer: sinfo: {partitions.failure}",
            "SLURM_CONF may name its configuration; whether this machine may talk to Slurm, its administrators know",
        )
        return
    lines = [line.strip().replace(", (null)", "") for line in partitions.said.splitlines()]
    yield ok(f"Slurm's partitions: {'; '.join(lines)}")
    config = ask("scontrol", "show", "config")
    if config.failure:
        yield warning(f"Slurm does not say how it is configured: scontrol: {config.failure}", "ask its administrators")
    else:
        yield from _settings(config.said)
    if results is not None:
        yield from _job(results)


def _settings(text: str) -> Iterator[Finding]:
    pairs = (line.partition("=") for line in text.splitlines())
    settings = {key.strip(): value.strip() for key, _, value in pairs}
    yield _accounting(settings.get("AccountingStorageType", ""))
    size = int(settings.get("MaxArraySize") or 0)
    if size > 1:
        yield ok(f"job arrays of up to {size - 1} tasks (MaxArraySize={size})")
    else:
        yield warning(f"no job arrays (MaxArraySize={size})", "send jobs one by one")
    yield _preemption(*(settings.get(key, "unknown") for key in ("JobRequeue", "PreemptType", "PreemptMode")))


def _accounting(storage: str) -> Finding:
    if storage.endswith("slurmdbd"):
        answer = ask("sacct", "--noheader", "--allocations", "--starttime=now-1minutes")
        if not answer.failure:
            return ok("accounting works: sacct answers")
        reason = f"sacct: {answer.failure}"
    else:
        reason = f"AccountingStorageType={storage}"
    return warning(
        f"no accounting ({reason}): how a killed job ended, nobody can ask",
        "a comparison that was killed has no results.json; the same command goes on where it was",
    )


def _preemption(requeue: str, kind: str, mode: str) -> Finding:
    said = f"(JobRequeue={requeue}, PreemptType={kind}, PreemptMode={mode})"
    if "CANCEL" in mode:
        return warning(f"jobs that are preempted are cancelled {said}", "the same command goes on where one was")
    if requeue == "0":
        return warning(f"jobs that lose their node are not requeued {said}", "sbatch --requeue asks for it")
    return ok(f"jobs that are preempted or lose their node are requeued {said}")


def _job(results: Path) -> Iterator[Finding]:
    """A job that looks at the results folder, while its lock is held here."""
    with held_folder(results) as folder:
        name, log = "there.json", folder / "log"
        script = shlex.join(module("probe", str(folder), name))
        sent = ask(
            "sbatch", "--parsable", "--job-name=dsmoe-doctor", "--ntasks=1", "--time=2",
            f"--output={str(log).replace('%', '%%')}", "--wrap", script, seconds=30,
        )  # fmt: skip
        if sent.failure:
            yield trouble(f"a job is refused: {sent.failure}", OPTIONS)
            return
        job = sent.said.strip().partition(";")[0]
        try:
            yield _outcome(job, folder / name, log)
        finally:
            ask("scancel", job)  # It has ended, mostly, and Slurm says so; else it would end by its time limit.


def _outcome(job: str, answer: Path, log: Path) -> Finding:
    state, reason = _wait(job, answer)
    if answer.exists():
        return seen(answer, "a job sees paths.results with its locks, and the same packages")
    if state:
        return warning(
            f"a job is still {state} ({reason}), and is cancelled", f"try again when there is less to do; {OPTIONS}"
        )
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] if log.exists() else []
    return trouble(
        f"a job ended and left nothing in {answer.parent.parent}{''.join(f': {line}' for line in last)}",
        "paths.results and the environment with dsmoe have to lie on a file system that the nodes share",
    )


def _wait(job: str, answer: Path) -> tuple[str, str]:
    """The job's state, empty once it has ended, and its reason: when it has answered, or has had its time."""
    entered, state, reason = time.monotonic(), "PENDING", ""
    while not answer.exists() and time.monotonic() < entered + SECONDS.get(state, RUN):
        time.sleep(0.5)
        queue = ask("squeue", "--noheader", f"--jobs={job}", "--states=all", "--format=%T|%r")
        if queue.failure and FORGOTTEN not in queue.failure:
            continue  # Slurm is busy, which says nothing of the job.
        now, _, reason = queue.said.strip().partition("|")
        if now in ENDED:
            now = ""
        if now != state:
            entered, state = time.monotonic(), now
    return state, reason
