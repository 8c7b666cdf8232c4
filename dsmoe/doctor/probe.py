"""What another process, here or on another machine, sees of a folder whose lock is held; written into that folder."""

import json
import platform
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dsmoe.provenance import versions

HELD = "held.lock"


def look(folder: Path) -> dict[str, Any]:
    """The host, the versions there, whether locks can be taken, and whether the one that is held is known to be."""
    seen = {"host": platform.node(), "versions": versions()}
    try:
        own = _taken(folder / f"{platform.node()}.lock")
        held = not _taken(folder / HELD)
    except (OSError, NotImplementedError) as error:
        return {**seen, "locks": False, "held": False, "error": str(error)}
    return {**seen, "locks": own, "held": held, "error": ""}


def _taken(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return True
    except Timeout:
        return False


if __name__ == "__main__":
    folder, name = Path(sys.argv[1]), sys.argv[2]
    temporary = folder / f".{name}"
    temporary.write_text(json.dumps(look(folder)), encoding="utf-8")
    temporary.rename(folder / name)
