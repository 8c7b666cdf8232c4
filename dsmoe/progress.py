"""What long work says: a bar in a terminal, plain lines in a log."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 15.0


class Advance(Protocol):
    """Says how far the work is: `done` of `total`, and what else there is to say, such as a loss."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Say it."""
        ...


class Reporter:
    """Says what is done, on standard error: results alone go to standard output."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """One line."""
        self.console.print(line, markup=False)

    @contextmanager
    def work(self, what: str) -> Iterator[Advance]:
        """A bar, or in a log a line now and then, while the work goes on; then a line with its seconds."""
        started = time.monotonic()
        with self._bar(what) if self.console.is_terminal else self._lines(what) as advance:
            yield advance
        self.say(f"{what}: {time.monotonic() - started:.1f} s")

    @contextmanager
    def _bar(self, what: str) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=None, note="")

            def advance(done: int, total: int, note: str = "") -> None:
                progress.update(task, completed=done, total=total, note=note)

            yield advance

    @contextmanager
    def _lines(self, what: str) -> Iterator[Advance]:
        started = last = time.monotonic()

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= SECONDS_BETWEEN_LINES and done:
                last = now
                left = (now - started) * (total - done) / done
                self.say(f"{what}: {done} of {total}{note and f', {note}'}, {left:.0f} s left")

        yield advance


def plain_warnings() -> None:
    """Warnings of ours as plain lines on standard error; lm-eval's are not for users."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
