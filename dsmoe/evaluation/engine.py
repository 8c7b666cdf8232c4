"""An engine of vLLM that answers lm-eval's questions, run by a Python that may have other packages than this one."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dsmoe.errors import SteeringError

Progress = Callable[[int, int], None]
STOPPING = 60
"""Seconds for an engine to end by itself."""


@dataclass(frozen=True)
class EngineSettings:
    """What an engine runs: by which Python, with how many threads (None for its own choice), and lm-eval's settings.

    `model` is JSON, what lm-eval's vllm model takes; `weights` is a hash of what lies at its path.
    """

    python: str | None
    threads: int | None
    model: str
    weights: str


class Engine:
    """A running engine. Raises RuntimeError, with the end of its log, where it does not start or dies."""

    def __init__(self, settings: EngineSettings) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        threads = {} if settings.threads is None else {"OMP_NUM_THREADS": str(settings.threads)}
        self._process = subprocess.Popen(
            [settings.python or sys.executable, "-P", "-m", "dsmoe.evaluation.engine_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **threads},
            text=True,
            bufsize=1,
        )
        self._write(settings.model)
        self.max_length: int = self._read(lambda done, total: None)

    def call(self, method: str, *arguments: Any, progress: Progress = lambda done, total: None) -> Any:
        """What a method of the worker's model returns."""
        self._write(json.dumps({"method": method, "arguments": arguments}))
        return self._read(progress)

    def steer(self, steering: Mapping[str, Any] | None) -> None:
        """Steer by what `Steering.to_json` gave, None for not at all. Raises SteeringError where that is refused."""
        try:
            self.call("steer", steering)
        except RuntimeError as error:
            raise SteeringError(str(error)) from error

    def stop(self) -> None:
        """End it, gently at first."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(STOPPING)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
        except OSError as error:
            raise self._death() from error

    def _read(self, progress: Progress) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "progress" in message:
                progress(*message["progress"])
            elif "error" in message:
                raise RuntimeError(f"vLLM: {message['error']}")
            else:
                return message["result"]
        raise self._death()

    def _death(self) -> RuntimeError:
        self._process.wait()
        self._log.seek(0)
        last = "".join(self._log.readlines()[-40:])
        return RuntimeError(f"vLLM ended with status {self._process.returncode}; the end of its log:\n{last}")


_running: dict[EngineSettings, Engine] = {}


def engine(settings: EngineSettings) -> Engine:
    """The engine of these settings, kept until another is wanted or `stop_engine` is called; there is one at a time."""
    if settings not in _running:
        stop_engine()
        _running[settings] = Engine(settings)
    return _running[settings]


@atexit.register
def stop_engine() -> None:
    """End the engine that runs, if one does, so that its memory is free."""
    while _running:
        _running.popitem()[1].stop()
