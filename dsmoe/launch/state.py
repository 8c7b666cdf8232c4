"""What became of a cell, as its job wrote it: one small file, replaced at once, beside the frozen config."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from dsmoe.disk import replace_file
from dsmoe.errors import InputError, SteeringError

Written = Literal["submitted", "running", "requeued", "finished", "failed"]
Cause = Literal["", "input", "memory", "time", "error"]
"""Why it failed: input and time fail the same way again, memory too unless there is more of it."""
OUT_OF_MEMORY = ("cannot allocate memory", "can't allocate memory", "out of memory", "bad_alloc", "alloc_failed")


@dataclass(frozen=True)
class State:
    """The state of one cell and since when; `doing` is what its job does, `error` what it failed of.

    `requeued` counts the times that its job went back to the queue, `fruitless` the times in a row that its time ran
    out before anything was finished.
    """

    state: Written
    since: str
    job: str = ""
    host: str = ""
    pid: int = 0
    doing: str = ""
    cause: Cause = ""
    error: str = ""
    requeued: int = 0
    fruitless: int = 0

    def write(self, folder: Path, cell: str) -> None:
        """Replace the cell's state in the submission's folder."""
        replace_file(state_path(folder, cell), json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path, cell: str) -> "State":
        """Read a cell's state. Raises InputError where there is none, or it is none of ours."""
        path = state_path(folder, cell)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{path}: not JSON: {error}") from error
        known = isinstance(content, dict) and content.keys() == {field.name for field in fields(cls)}
        if not known or content["state"] not in get_args(Written):
            raise InputError(f"{path}: is no state of a cell")
        return cls(**content)


def state_path(folder: Path, cell: str) -> Path:
    """Where a submission keeps a cell's state."""
    return folder / f"{cell}.state.json"


def now() -> str:
    """The time, to the second, as states have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def cause_of(error: BaseException) -> Cause:
    """Why a cell failed, by what was raised."""
    for raised in _chain(error):
        # torch's own class is told by its name: whoever reads states must not wait for torch.
        of_torch = type(raised).__name__ == "OutOfMemoryError"
        said = isinstance(raised, RuntimeError | OSError) and any(part in str(raised).lower() for part in OUT_OF_MEMORY)
        if isinstance(raised, MemoryError) or of_torch or said:
            return "memory"
    return "input" if isinstance(error, InputError | SteeringError) else "error"


def spoils_process(error: BaseException) -> bool:
    """Whether the GPU is lost to this process, as after an assertion that failed on it: all later calls fail too."""
    return any(type(raised).__name__ == "AcceleratorError" for raised in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """What was raised, and what that was raised from."""
    raised: BaseException | None = error
    while raised is not None:
        yield raised
        raised = raised.__cause__ or raised.__context__
