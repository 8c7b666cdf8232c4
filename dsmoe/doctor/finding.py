"""What a check finds, and how it asks others: never without a time limit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Thread
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report, and one on how to mend it where something is wrong."""

    level: Literal["ok", "warning", "trouble"]
    text: str
    mend: str = ""


def ok(text: str) -> Finding:
    """Nothing is wrong."""
    return Finding("ok", text)


def warning(text: str, mend: str) -> Finding:
    """Some runs may fail of this, or be slower."""
    return Finding("warning", text, mend)


def trouble(text: str, mend: str) -> Finding:
    """A run that wants what is named fails."""
    return Finding("trouble", text, mend)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program wrote to standard output; `failure` says why it failed, and is empty where it did not."""

    said: str
    failure: str = ""


def ask(*command: str, seconds: float = 10) -> Answer:
    """Run a program to its end, or to that of the time it is given."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Answer("", f"{command[0]}: {error.strerror}")
    with process:
        try:
            said, complaint = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            # With all its children: one that lives would hold the pipes open, and us with them.
            os.killpg(process.pid, signal.SIGKILL)
            return Answer("", f"no answer within {seconds:g} s")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if not process.returncode:
        return Answer(said)
    lines = (complaint.strip() or said.strip()).splitlines()
    return Answer(said, lines[-1] if lines else f"exit status {process.returncode}")


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package in a Python of its own."""
    return [sys.executable, "-m", f"dsmoe.doctor.{name}", *arguments]


def bounded(check: Callable[[], Iterable[Finding]], seconds: float, late: Finding) -> Iterator[Finding]:
    """What a check finds, and `late` where it is not done in time.

    It runs in a thread that is left to itself then: a dead file system or name server holds its caller as it likes.
    """
    found: Queue[Finding | BaseException | None] = Queue()

    def work() -> None:
        try:
            for finding in check():
                found.put(finding)
            found.put(None)
        except BaseException as error:
            found.put(error)

    Thread(target=work, daemon=True).start()
    end = time.monotonic() + seconds
    while True:
        try:
            one = found.get(timeout=max(end - time.monotonic(), 0))
        except Empty:
            yield late
            return
        if one is None:
            return
        if isinstance(one, BaseException):
            raise one
        yield one
