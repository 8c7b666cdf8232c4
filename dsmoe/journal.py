"""A journal: what happened to one cell, as lines of JSON that every process that worked on it has added to."""

import json
import os
import platform
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dsmoe.progress import Advance

SECONDS_BETWEEN_PROGRESS = 60.0


def job_id() -> str | None:
    """What Slurm calls the job that this process is, None where it is none."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")


@dataclass(frozen=True)
class Journal:
    """Where lines go, and the facts that each of them states beside its event.

    A line is added by one write to the end of the file, so those of several processes never mix. Nothing of the
    environment is in it but the job's id. Without a path nothing is kept.
    """

    path: Path | None
    facts: dict[str, Any]

    def about(self, **facts: Any) -> "Journal":
        """The same journal, whose lines state these facts too."""
        return replace(self, facts={**self.facts, **facts})

    def write(self, event: str, **facts: Any) -> None:
        """Add a line: when, who, what happened. Raises OSError where it cannot be written whole."""
        if self.path is None:
            return
        who = {"host": platform.node(), "pid": os.getpid(), "job": job_id()}
        time_ = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        content = {"time": time_, **who, **self.facts, "event": event, **facts}
        line = (json.dumps(content, ensure_ascii=False) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            while line:  # Of a disk that is nearly full, half a line is taken; the rest is refused with the reason.
                line = line[os.write(descriptor, line) :]
        finally:
            os.close(descriptor)

    def following(self, advance: Advance) -> Advance:
        """`advance`, which also adds a line on how far the work is, once in a while."""
        last = time.monotonic()

        def both(done: int, total: int, note: str = "") -> None:
            nonlocal last
            advance(done, total, note)
            if time.monotonic() - last >= SECONDS_BETWEEN_PROGRESS:
                last = time.monotonic()
                self.write("progress", done=done, total=total, **({"note": note} if note else {}))

        return both


NONE = Journal(None, {})


def last_line(path: Path) -> dict[str, Any] | None:
    """The last event of a journal, None where there is none; half a line, of a disk that was full, is passed over."""
    if not path.exists():
        return None
    for line in reversed(path.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and "event" in content:
            return content
    return None
