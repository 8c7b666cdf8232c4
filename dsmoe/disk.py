"""The disk: files replaced at once, folders put on it for good, and in words what it refuses."""

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsmoe.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
BROKEN = (errno.EIO, errno.ESTALE)
REFUSALS = frozenset((*FULL, *CLOSED, *BROKEN))
"""What a disk answers; other errors of the system are of the network, or of a program's own making."""


@contextmanager
def writing(path: Path, key: str = "paths.results") -> Iterator[None]:
    """While `path` is written, which config key `key` names or lies above: what the disk refuses is one line.

    Raises InputError for that, whichever library has met it; other errors pass as they are.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # Libraries in Rust raise errors of their own, with the system's number in their words.
        said = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(said[1]) if said else None
        if number not in REFUSALS:
            raise
        raise InputError(f"{key}: {path} cannot be written: {os.strerror(number).lower()}") from error


def replace_file(path: Path, text: str) -> None:
    """Put `text` into the file at once: a reader finds all of the old text, or all of the new one."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with writing(path):
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Put a file or folder on disk, so that a power cut cannot leave a whole name over half the bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
