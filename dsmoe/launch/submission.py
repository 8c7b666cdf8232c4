"""A submission: the cells that one command sent to Slurm, in which arrays and jobs, and the folder that it leaves."""

import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dsmoe.disk import replace_file, writing
from dsmoe.errors import InputError
from dsmoe.stage import jobs_folder

FILE = "submission.json"


@dataclass(frozen=True)
class Array:
    """Jobs with the same resources: a Slurm array, or a single job. `id` is Slurm's, empty until it has given one."""

    name: str
    jobs: tuple[tuple[str, ...], ...]
    id: str = ""

    def job_id(self, index: int) -> str:
        """What Slurm and the logs call one of its jobs."""
        return f"{self.id}_{index}" if len(self.jobs) > 1 else self.id

    def folder(self, submission: Path) -> Path:
        """Where its script and its logs are."""
        return submission / self.name

    def log(self, submission: Path, index: int) -> Path:
        """The log of one of its jobs."""
        return self.folder(submission) / f"{self.job_id(index)}_0_log.out"

    def exit_file(self, submission: Path, index: int) -> Path:
        """Where the script of one of its jobs says how Python ended, however it ended."""
        return self.folder(submission) / f"{self.job_id(index)}.exit"


@dataclass(frozen=True)
class Submission:
    """What one command submitted: its arrays, every cell's overrides, and the folder in which it was given."""

    folder: Path
    directory: str
    overrides: Mapping[str, Sequence[str]]
    arrays: tuple[Array, ...]

    def write(self) -> None:
        """Write it, whole, into its folder."""
        content = {
            "directory": self.directory,
            "overrides": dict(self.overrides),
            "arrays": [asdict(array) for array in self.arrays],
        }
        replace_file(self.folder / FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def with_array(self, array: Array) -> "Submission":
        """The same, with one array in place of that with its name."""
        return replace(self, arrays=tuple(array if other.name == array.name else other for other in self.arrays))

    @classmethod
    def read(cls, folder: Path) -> "Submission":
        """Read a submission from its folder. Raises InputError for what is none."""
        path = folder / FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            arrays = tuple(
                Array(array["name"], tuple(tuple(job) for job in array["jobs"]), array["id"])
                for array in content["arrays"]
            )
            return cls(folder, content["directory"], content["overrides"], arrays)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: is no submission: {error!r}") from error


def new_folder(results: Path, study: str) -> Path:
    """A folder for one more submission; later ones have later names."""
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{time.time_ns() % 10**9:09}-{uuid.uuid4().hex[:4]}"
    folder = jobs_folder(results, study).absolute() / name
    # Slurm would take it for one of its patterns, and a new line for the end of an option.
    if bad := {"%", "\n"} & set(str(folder)):
        raise InputError(f"paths.results: Slurm cannot write logs below {str(folder)!r}: it holds {min(bad)!r}")
    with writing(folder):
        folder.mkdir(parents=True)
    return folder


def submissions(results: Path, study: str) -> list[Submission]:
    """All submissions of a study, in the order in which they were made."""
    folders = sorted(path.parent for path in jobs_folder(results, study).absolute().glob(f"*/{FILE}"))
    return [Submission.read(folder) for folder in folders]


def here() -> str:
    """The folder that relative paths of a command are meant from."""
    return os.getcwd()
