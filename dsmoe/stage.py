"""A stage: a part of the config and its code's version → a hash → a folder that is written whole or not at all.

Nothing else decides where results are written, or how a folder comes to be. A stage that is finished is never made
again; one that was killed has left nothing but a temporary folder, which the next attempt removes.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from filelock import FileLock, Timeout

from dsmoe.disk import writing
from dsmoe.errors import InputError
from dsmoe.folders import appear
from dsmoe.journal import NONE, Journal
from dsmoe.provenance import stable_hash, versions
from dsmoe.usage import measured

Log = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """What one stage makes: its name, the version of its code and the part of the config that it is a function of.

    Raise the version when the code would give another result: older folders are then left alone, and not used.
    """

    name: str
    version: int
    config: Mapping[str, Any]

    @property
    def key(self) -> dict[str, Any]:
        """All that the stage depends on."""
        return {"stage": self.name, "version": self.version, "config": dict(self.config)}

    @cached_property
    def hash(self) -> str:
        """The name of the stage's folder; later stages that build on this one name it in their own config."""
        return stable_hash(self.key)

    def folder(self, results: Path) -> Path:
        """Where the stage lies, finished or not."""
        return results / "stages" / self.name / self.hash

    def run(
        self,
        results: Path,
        make: Callable[[Path], None],
        log: Log,
        journal: Journal = NONE,
        notes: Mapping[str, Any] = MappingProxyType({}),
    ) -> Path:
        """The stage's folder: the finished one, or else made by `make(temporary folder)`."""
        return write_whole(self.folder(results), self.key, make, log, self.of(journal), notes)

    def of(self, journal: Journal) -> Journal:
        """The journal, for what happens to this stage."""
        return journal.about(stage=self.name, hash=self.hash)


def jobs_folder(results: Path, study: str) -> Path:
    """Where a study's Slurm jobs keep what they run and what became of it."""
    return results / study / ".jobs"


def tracking_folder(results: Path, study: str) -> Path:
    """Where a study's wandb runs lie, and what was sent of them where."""
    return results / study / ".wandb"


def journal_file(results: Path, study: str, cell: str) -> Path:
    """Where a cell's journal is kept: beside its folder, which is there only once it is finished."""
    return results / study / ".logs" / f"{cell}.jsonl"


def is_finished(folder: Path) -> bool:
    """Whether the folder was written whole; only then does it bear its name."""
    # As .NAME.partial, which a power cut leaves behind, it may have its status.json already.
    return not folder.name.startswith(".") and (folder / "status.json").exists()


def write_whole(
    folder: Path,
    config: Mapping[str, Any],
    make: Callable[[Path], None],
    log: Log,
    journal: Journal = NONE,
    notes: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """`folder`, with config.yaml, status.json and whatever `make(temporary folder)` writes; finished ones are reused.

    The folder appears under its name in one step, after all its bytes are on disk. Whoever else wants it meanwhile
    waits for the lock and then uses it. The journal is told; its facts and `notes` stand in status.json.
    """
    path = folder.with_name(f".{folder.name}.lock")
    if is_finished(folder):
        # Who made it may have been killed before it removed its lock.
        if path.exists() and os.access(folder.parent, os.W_OK):
            path.unlink(missing_ok=True)
        log(f"reuses {folder}{_other_versions(folder)}")
        journal.write("reused")
        return folder
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: is there but not whole: it has no status.json; move it away")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log(f"waits for another process that makes {folder}")
            journal.write("waits")
            with measured():  # What others make is no work of the stage that wants it.
                lock.acquire()
        try:
            if is_finished(folder):
                journal.write("reused")
            else:
                _make(folder, config, make, journal, notes)
            # Whoever still waits on the removed file finds the folder finished.
            path.unlink(missing_ok=True)
        finally:
            lock.release()
    return folder


def _other_versions(folder: Path) -> str:
    """What a finished folder was made with, where that is not what runs now: its numbers may differ by rounding."""
    made_with = json.loads((folder / "status.json").read_text(encoding="utf-8"))["versions"]
    others = [f"{package} {version}" for package, version in made_with.items() if versions().get(package) != version]
    return f", made with {', '.join(others)}" if others else ""


def _make(
    folder: Path,
    config: Mapping[str, Any],
    make: Callable[[Path], None],
    journal: Journal,
    notes: Mapping[str, Any],
) -> None:
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    journal.write("started")

    with measured() as usage:

        def make_described(temporary: Path) -> None:
            (temporary / "config.yaml").write_text(
                yaml.safe_dump(dict(config), sort_keys=True, allow_unicode=True), encoding="utf-8"
            )
            make(temporary)
            status = {
                "state": "finished",
                "started": started,
                **usage.to_json(),
                "host": platform.node(),
                **journal.facts,
                **notes,
                "versions": versions(),
            }
            (temporary / "status.json").write_text(json.dumps(status, indent=2) + "\n", encoding="utf-8")

        try:
            appear(folder, make_described)
        except BaseException as error:
            with suppress(OSError):  # Where a full disk takes no line, the error itself is what matters.
                failed = isinstance(error, Exception)
                journal.write("failed" if failed else "interrupted", error=f"{type(error).__name__}: {error}")
            raise
        journal.write("finished", **usage.to_json())
