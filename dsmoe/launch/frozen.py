"""A frozen cell: all that a job runs, as it was when the command was given."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dsmoe.config import Config
from dsmoe.config.validation import checked
from dsmoe.disk import replace_file
from dsmoe.errors import InputError
from dsmoe.provenance import code_hash, git_commit, versions

SCHEMA = 1


def origin() -> dict[str, str | None]:
    """What code would run now: the commit, a hash of the package's code, the versions of all that changes a number."""
    return {"commit": git_commit(), "code": code_hash(), **versions()}


@dataclass(frozen=True)
class Frozen:
    """One cell as it was submitted.

    `device` and `threads` are those of the job, for which the cell is named; `origin` is the code it was submitted
    from, `fits` says what would hold it if memory runs out, and `sweep` are the keys that cells of its command vary.
    """

    cell: str
    config: Config
    device: str
    threads: int
    fits: str
    origin: dict[str, str | None]
    sweep: tuple[str, ...] = ()
    schema: int = SCHEMA

    @classmethod
    def of(
        cls, cell: str, config: Config, device: str, threads: int, fits: str, sweep: tuple[str, ...] = ()
    ) -> "Frozen":
        """A cell as it is now, to be run by the code that runs now."""
        return cls(cell, config, device, threads, fits, origin(), sweep)

    def write(self, folder: Path) -> None:
        """Write it whole, as `CELL.json` in the submission's folder."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        replace_file(folder / f"{self.cell}.json", text + "\n")

    @classmethod
    def read(cls, folder: Path, cell: str) -> "Frozen":
        """Read a cell of a submission, and check all of it. Raises InputError for whatever in it is not as it was."""
        path = folder / f"{cell}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            checked(content["config"])
            if content.keys() != {field.name for field in fields(cls)}:
                raise ValueError(f"its keys are {', '.join(sorted(content))}")
            frozen = _FROZEN.validate_json(json.dumps(content), strict=True)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        except (ValidationError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: is not what was submitted: {reason[:200]}") from error
        if (frozen.schema, frozen.cell) != (SCHEMA, cell):
            raise InputError(f"{path}: is not what was submitted: it is of schema {frozen.schema}, cell {frozen.cell}")
        return frozen

    def check_origin(self) -> None:
        """Raise InputError where the code that runs now is not the code that the cell was submitted from."""
        now = origin()
        changed = [
            f"{name} {self.origin.get(name)} → {now.get(name)}"
            for name in sorted(now.keys() | self.origin.keys())
            if now.get(name) != self.origin.get(name)
        ]
        if changed:
            raise InputError(
                f"cell {self.cell}: the code changed since it was submitted: {', '.join(changed)}; the same command "
                "again submits it as it is now"
            )


_FROZEN = TypeAdapter(Frozen)
