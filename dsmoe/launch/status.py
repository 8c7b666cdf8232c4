"""The verb `status`: what runs, what is finished, what failed and why; from disk and Slurm's queue, without torch."""

import shlex
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from dsmoe.compose import Composed
from dsmoe.launch.frozen import Frozen
from dsmoe.launch.queue import has_slurm
from dsmoe.launch.submission import here
from dsmoe.launch.survey import BROKEN, UNSETTLED, Seen, counted, survey

SECONDS = 5.0
LINES = 8
"""Of a broken cell's log."""


def status(composed: Sequence[Composed], watch: bool = False) -> int:
    """Show the cells of the studies that the configs name; status 1 where one of them failed or is lost.

    With `watch` it shows them anew until none is queued or running, or Ctrl-C.
    """
    studies = list(dict.fromkeys((one.config.paths.results, one.config.study) for one in composed))
    console = Console(highlight=False, soft_wrap=True)
    found = _surveyed(studies)
    if watch:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            while any(seen.condition in UNSETTLED for cells in found.values() for seen in cells.values()):
                live.update(Group(*_shown(found)), refresh=True)
                time.sleep(SECONDS)
                found = _surveyed(studies)
    for part in _shown(found):
        console.print(part)
    return int(any(seen.condition in BROKEN for cells in found.values() for seen in cells.values()))


Studies = dict[tuple[str, str], dict[str, Seen]]


def _surveyed(studies: Sequence[tuple[str, str]]) -> Studies:
    return {(results, study): survey(Path(results), study) for results, study in studies}


def _shown(found: Studies) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for (results, study), cells in found.items():
        parts.append(Text(f"{Path(results) / study}: {counted(cells.values())}"))
        unsure = any(seen.condition in UNSETTLED for seen in cells.values()) and not has_slurm()
        if unsure:
            parts.append(Text("there is no Slurm here: what is running or queued is as its job wrote it last"))
        if cells:
            parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in table(list(cells.values()))]
        for seen in cells.values():
            if seen.condition in BROKEN:
                parts += [Text(""), Text(paragraph(seen))]
    return parts


def table(cells: Sequence[Seen]) -> list[str]:
    """One line a cell under a line of headings; of its overrides those that not all cells have."""
    common = set.intersection(*(set(seen.overrides) for seen in cells)) if len(cells) > 1 else set()
    rows = [("cell", "state", "since", "job", "host", "overrides", "doing")]
    for seen in cells:
        own = " ".join(override for override in seen.overrides if override not in common)
        times = f", requeued {seen.requeued} ×" if seen.requeued else ""
        rows.append((seen.cell, seen.condition + times, _local(seen.since), seen.job, seen.host, own, seen.doing))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def paragraph(seen: Seen) -> str:
    """Why a cell is broken: its error, the end of its log, what would help, and the command that runs it alone."""
    lines = [f"{seen.condition}: {seen.cell}  {' '.join(seen.overrides)}".rstrip(), f"  {seen.error}"]
    submission = seen.submission
    assert submission is not None
    if seen.cause == "memory":
        lines.append(f"  {Frozen.read(submission.folder, seen.cell).fits}")
    if seen.log is not None:
        lines.append(f"  log: {seen.log}")
        lines += [f"    {line}" for line in _tail(seen.log)]
    lines.append(f"  again, alone: {command(seen.overrides, submission.directory)}")
    return "\n".join(lines)


def command(overrides: Sequence[str], directory: str) -> str:
    """The command that runs one cell in this process, from wherever one is."""
    own = [override for override in overrides if not override.lstrip("+~").startswith("hydra")]
    words = shlex.join(["dsmoe", "compare", *own])
    return words if directory == here() else f"cd {shlex.quote(directory)} && {words}"


def _tail(path: Path) -> list[str]:
    if not path.exists():
        return ["(no log: it never ran, or its folder is on no disk that is shared)"]
    with path.open(encoding="utf-8", errors="replace") as file:
        return [line.rstrip() for line in deque(file, maxlen=LINES)]


def _local(since: str) -> str:
    if not since:
        return ""
    return datetime.fromisoformat(since).astimezone().strftime("%Y-%m-%d %H:%M:%S")
