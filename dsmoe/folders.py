"""Folders that appear whole or not at all, and a user's own ones, which nothing else may lie in."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from dsmoe.disk import flush, writing
from dsmoe.errors import InputError


def appear(folder: Path, make: Callable[[Path], None]) -> None:
    """`folder`, which is not there or empty, with whatever `make(temporary folder)` writes, or not at all."""
    temporary = folder.with_name(f".{folder.name}.partial")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir()
    try:
        make(temporary)
        for path in temporary.rglob("*"):
            flush(path)
        flush(temporary)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(folder.parent)


def write_new(folder: Path, make: Callable[[Path], None], key: str) -> None:
    """A folder of the user's own, which config key `key` names: whatever `make(temporary folder)` writes, and no more.

    It appears in one step, as a stage does. Raises InputError where there is something, or another process at work.
    """
    check_new(folder, key)
    path = folder.with_name(f".{folder.name}.lock")
    with writing(folder, key):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(path, timeout=0):
                try:
                    check_new(folder, key)
                    appear(folder, make)
                finally:
                    path.unlink(missing_ok=True)
        except Timeout:
            raise InputError(f"{key}: another process is writing {folder}") from None


def replace_folder(folder: Path, make: Callable[[Path], None], listing: str, key: str) -> None:
    """A folder of the user's own as `write_new` makes it, in the place of one that an earlier command has made.

    What is there is known by `listing`, the file in which `make` lists all that it writes, as `contents` has it. Raises
    InputError where there is something else, or another process at work.
    """
    check_replaceable(folder, listing, key)
    path, old = (folder.with_name(f".{folder.name}.{what}") for what in ("lock", "old"))
    with writing(folder, key):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(path, timeout=0):
                try:
                    shutil.rmtree(old, ignore_errors=True)
                    made = folder.with_name(f".{folder.name}.new")
                    shutil.rmtree(made, ignore_errors=True)
                    appear(made, make)
                    check_replaceable(folder, listing, key)
                    if folder.exists():
                        folder.rename(old)
                    made.rename(folder)
                    shutil.rmtree(old, ignore_errors=True)
                finally:
                    path.unlink(missing_ok=True)
        except Timeout:
            raise InputError(f"{key}: another process is writing {folder}") from None


def check_replaceable(folder: Path, listing: str, key: str) -> None:
    """Raise InputError unless `folder` can be made, or is there and holds nothing but what its `listing` lists."""
    if folder.is_dir() and (found := contents(folder)):
        if others := sorted(set(found) - _listed(folder / listing)):
            raise InputError(
                f"{key}: {folder} holds {others[0]!r}, which no {listing} in it lists as written by a command; "
                "move the folder away, or name another one"
            )
        if not os.access(folder.parent, os.W_OK):
            raise InputError(f"{key}: {folder} cannot be replaced: nothing may be written to {folder.parent}")
        return
    check_new(folder, key)


def contents(folder: Path) -> list[str]:
    """The paths of all that lies in a folder, at any depth, folders too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def _listed(path: Path) -> set[str]:
    """What a listing lists under `files`; nothing where there is none, or where the file is somebody else's."""
    try:
        return set(json.loads(path.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def check_new(folder: Path, key: str) -> None:
    """Raise InputError unless `folder` can be made, or is there and empty; `key` is the config key that names it."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{key}: {folder} is there already and is no empty folder; name a new one")
    above = next(path for path in folder.absolute().parents if path.exists())
    if not above.is_dir():
        raise InputError(f"{key}: {folder} cannot be made: {above} is not a folder")
    if not os.access(above, os.W_OK):
        raise InputError(f"{key}: {folder} cannot be made: nothing may be written to {above}")
