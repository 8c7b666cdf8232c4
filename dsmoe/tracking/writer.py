"""A process that writes wandb runs, asked from here, with a limit to every answer."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from dsmoe.config import TrackingConfig
from dsmoe.tracking.dashboard import Dashboard
from dsmoe.tracking.run import Run

PATIENCE = 180.0
"""Seconds that one answer may take: wandb's own limits are far below, but for a slow disk's sake."""
CONNECTION = (
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "WANDB_CONFIG_DIR",
    "WANDB_CREDENTIALS_FILE",
    "WANDB_HTTP_TIMEOUT",
    "WANDB_IDENTITY_TOKEN_FILE",
)
"""Variables of wandb that say how to reach the server; all else is the config's to say."""


class TrackingError(RuntimeError):
    """wandb did not take a run: one sentence says why. What lies on disk is as it was."""


class Writer:
    """Writes runs offline, or at the server, as the config says whose and in which project.

    A context: the process ends with it. Offline, it is given no key, and asks no network.
    """

    def __init__(self, config: TrackingConfig, offline: bool) -> None:
        self.config = config
        self.offline = offline
        self.entity = config.entity
        self._temporary = tempfile.TemporaryDirectory(prefix="dsmoe-wandb-", ignore_cleanup_errors=True)
        self._errors = open(self._place / "errors", "w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dsmoe.tracking.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environment(self._place, offline),
            start_new_session=True,
        )

    @property
    def _place(self) -> Path:
        return Path(self._temporary.name)

    def reach(self) -> str:
        """The server and the project there, once it has accepted the key. Raises TrackingError where it does not."""
        answer = self._ask({"do": "reach", "entity": self.config.entity})
        self.entity = answer["entity"]
        return f"{answer['server']}/{self.entity}/{self.config.project}"

    def write(self, run: Run, folder: Path | None = None) -> None:
        """Write a run; what wandb keeps of it on disk is put below `folder`, or does not stay. Raises TrackingError."""
        drawn = self._place / "figures"
        drawn.mkdir(exist_ok=True)
        content = {field.name: getattr(run, field.name) for field in fields(run)}
        request = {
            "do": "write",
            "run": content | {"figures": {name: str(path.absolute()) for name, path in run.figures(drawn).items()}},
            "project": self.config.project,
            "entity": self.entity,
            "tags": list(self.config.tags),
            "folder": str((folder or self._place).absolute()),
            "offline": self.offline,
        }
        self._ask(request)

    def show(self, dashboard: Dashboard) -> dict[str, Any]:
        """The JSON of a dashboard's workspace and report; online, the project has them then. Raises TrackingError."""
        request = {"do": "show", "project": self.config.project, "entity": self.entity, "offline": self.offline}
        return self._ask({**request, **asdict(dashboard)})

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # As a file: a pipe would hold us where nobody reads the whole of it.
        place = self._place / "request.json"
        place.write_text(json.dumps(request), encoding="utf-8")
        try:
            self._process.stdin.write(f"{place}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise TrackingError(self._last_words()) from None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            self._kill()
            raise TrackingError(f"wandb gave no answer within {PATIENCE:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise TrackingError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise TrackingError(_without_secrets(answer["error"]))
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        last = said[-1] if said else "it said nothing"
        return _without_secrets(f"wandb's process ended with status {status}: {last}")

    def _kill(self) -> None:
        # With all its children: wandb has a process of its own.
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            stream.close()
        self._temporary.cleanup()


def _environment(place: Path, offline: bool) -> dict[str, str]:
    """That of this process, without what of wandb's variables would say otherwise than the config does."""
    kept: Sequence[str] = () if offline else CONNECTION
    plain = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_") or name in kept}
    return plain | {
        "WANDB_CACHE_DIR": str(place / "cache"),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_MODE": "offline" if offline else "online",
        "WANDB_SILENT": "true",
    }


def _without_secrets(text: str) -> str:
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "(the API key)") if key else text
