"""What Slurm says: which of our jobs are in its queue and, where it keeps accounts, how others ended."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from dsmoe.errors import InputError

SECONDS = 60
FIELDS = ("%j", "%K", "%T", "%N", "%r")
"""Of squeue: the job's name, its index in the array, its state, its nodes, why it waits."""
WAITS = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
HELD = "launch failed requeued held"
"""Why a job waits that a node could not start: for ever, unless somebody releases it."""
ENDED = frozenset(
    (
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT",
    )
)  # fmt: skip
"""States of jobs that squeue still knows of for some minutes after their end."""

Place = tuple[str, int]
"""The name of an array and the index of a job in it."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A job that is in the queue: whether it still waits there, why, and the nodes that it runs on if not."""

    waits: bool
    reason: str
    nodes: str

    @property
    def held(self) -> bool:
        """Whether Slurm put it back after a node failed to start it, and will not try again by itself."""
        return self.waits and HELD in self.reason.replace("_", " ")


class SlurmSilentError(InputError):
    """Slurm does not answer: nothing is known of any job until it does."""


def has_slurm() -> bool:
    """Whether Slurm's commands are here."""
    return shutil.which("squeue") is not None and shutil.which("sbatch") is not None


def queued(names: Iterable[str]) -> dict[Place, Queued]:
    """Those jobs of the named arrays that are in the queue, waiting or running.

    Raises SlurmSilentError where Slurm does not answer: nothing is then known of any job.
    """
    wanted = sorted(set(names))
    if not wanted:
        return {}
    found = {}
    for start in range(0, len(wanted), 100):
        command = ["squeue", "--noheader", "--array", f"--format={'|'.join(FIELDS)}", "--states=all"]
        for line in _said([*command, f"--name={','.join(wanted[start : start + 100])}"]).splitlines():
            name, index, state, nodes, reason = line.split("|", 4)
            if state in ENDED:
                continue
            found[name, int(index) if index.isdigit() else 0] = Queued(state in WAITS, reason, nodes)
    return found


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except subprocess.TimeoutExpired as error:
        raise SlurmSilentError(f"{command[0]}: Slurm did not answer within {SECONDS} seconds") from error
    except subprocess.CalledProcessError as error:
        reason = " ".join((error.stderr or error.stdout or f"status {error.returncode}").split())
        raise SlurmSilentError(f"{command[0]}: Slurm does not answer: {reason[:200]}") from error
    return done.stdout


def cancel(jobs: Iterable[str]) -> None:
    """Take jobs out of the queue. Raises SlurmSilentError where Slurm does not answer."""
    if wanted := sorted(set(jobs)):
        _said(["scancel", *wanted])


def accounts(job: str) -> str:
    """How a job ended, as Slurm's accounting has it (OUT_OF_MEMORY, TIMEOUT, CANCELLED…).

    Empty where it keeps none or does not answer: of such a job one knows what the disk says.
    """
    if shutil.which("sacct") is None:
        return ""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=State", f"--jobs={job}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return ""
    states = re.findall(r"^[A-Z_]+", done.stdout, re.MULTILINE) if done.returncode == 0 else []
    return states[-1] if states else ""
