"""What was sent where: a small file beside each mirror."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from dsmoe.disk import replace_file
from dsmoe.errors import InputError

OFFLINE = "offline"
"""The destination that is this disk; all others are projects of servers."""
PATIENCE = 360.0
"""Seconds to wait for another who sends the same: twice as long as wandb may take for an answer."""


@dataclass(frozen=True)
class Sent:
    """`sent.json` in a folder: for each destination, `offline` or a server's project, a stamp of what it has."""

    folder: Path

    def has(self, destination: str, stamp: str) -> bool:
        """Whether the destination has what bears this stamp."""
        return self._read().get(destination) == stamp

    def keep(self, destination: str, stamp: str) -> None:
        """Note what the destination has now."""
        sent = self._read() | {destination: stamp}
        replace_file(self.folder / "sent.json", json.dumps(sent, indent=2, sort_keys=True) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside the context nobody else sends the same, nor writes to the folder, which is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock", timeout=PATIENCE):
            yield

    def _read(self) -> dict[str, str]:
        path = self.folder / "sent.json"
        if not path.exists():
            return {}
        try:
            sent: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not JSON: {error}; without it, what it is about is sent again") from error
        return sent
