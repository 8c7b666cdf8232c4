"""The folder of results: whether there is room, and whether two processes can share it."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from dsmoe.doctor.finding import Finding, ask, module, ok, trouble, warning
from dsmoe.doctor.probe import HELD
from dsmoe.provenance import versions

NO_ROOM, LITTLE_ROOM = 1e8, 1e10
"""Bytes: a comparison on the embedded model leaves 20 MB; an adapter of 2.7% of 30 billion parameters has 3 GB."""
ELSEWHERE = "paths.results=FOLDER names a folder elsewhere"


def results_folder(results: str) -> Iterator[Finding]:
    """Whether results can be written and locked where `paths.results` says; nothing stays there."""
    try:
        where = nearest(Path(results))
        free = shutil.disk_usage(where).free
        said = f"paths.results: {free / 1e9:.1f} GB are free at {where}"
        if free < NO_ROOM:
            yield trouble(said, ELSEWHERE)
        elif free < LITTLE_ROOM:
            yield warning(said, f"make room, or {ELSEWHERE}")
        else:
            yield ok(said)
        with held_folder(Path(results)) as folder:
            answer = ask(*module("probe", str(folder), "here.json"), seconds=30)
            if answer.failure:
                yield trouble(f"paths.results: another process cannot use {where}: {answer.failure}", ELSEWHERE)
            else:
                yield seen(folder / "here.json", f"paths.results: {where} can be written and locked")
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        yield trouble(f"paths.results: {results} cannot be written and locked: {reason}", ELSEWHERE)


def nearest(folder: Path) -> Path:
    """The folder itself, or what is there of the path to it."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


@contextmanager
def held_folder(results: Path) -> Iterator[Path]:
    """A temporary folder where results go, with a lock that this process holds meanwhile."""
    with (
        tempfile.TemporaryDirectory(prefix=".dsmoe-doctor-", dir=nearest(results), ignore_cleanup_errors=True) as name,
        FileLock(Path(name) / HELD, timeout=0),
    ):
        yield Path(name)


def seen(path: Path, said: str) -> Finding:
    """What the process that wrote `path` found, as a line: `said` where all is well."""
    answer = json.loads(path.read_text(encoding="utf-8"))
    others = [
        f"{package} {version}" for package, version in answer["versions"].items() if versions().get(package) != version
    ]
    if answer["locks"] and answer["held"] and others:
        return warning(
            f"{answer['host']} has other versions than there are here: {', '.join(others)}",
            "an environment on a file system that the nodes share is the same on all of them",
        )
    if answer["locks"] and answer["held"]:
        return ok(said)
    if not answer["locks"]:
        return trouble(f"paths.results: no lock can be taken on {answer['host']}: {answer['error']}", ELSEWHERE)
    return trouble(
        f"paths.results: {answer['host']} takes a lock that is held here: two jobs could write one result",
        f"ask for a file system with locks that all nodes share (flock); or {ELSEWHERE}",
    )
