"""A cell's mirror: its offline run, and where else its results were sent."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from dsmoe.config import TrackingConfig
from dsmoe.disk import replace_file
from dsmoe.errors import InputError
from dsmoe.stage import Log, tracking_folder
from dsmoe.tracking.run import Run, results_hash
from dsmoe.tracking.writer import PATIENCE, TrackingError, Writer

OFFLINE = "offline"
LATER = "the results stay, and dsmoe publish sends them"


@dataclass(frozen=True)
class Mirror:
    """One finished cell of a study, and what wandb has of it.

    Below its study's tracking folder lie the files of its offline run, and `sent.json`: for each destination, which is
    `offline` or a server's project, the hash of the results that it has.
    """

    results: Path
    study: str
    cell: str

    @property
    def source(self) -> Path:
        """The cell's own folder, which is never written to."""
        return self.results / self.study / self.cell

    @property
    def folder(self) -> Path:
        """Where the mirror lies."""
        return tracking_folder(self.results, self.study) / self.cell

    def has(self, destination: str) -> bool:
        """Whether the destination has the results as they are now."""
        return self._sent().get(destination) == results_hash(self.source)

    def write_offline(self, config: TrackingConfig) -> None:
        """Write the offline run, unless it is there."""
        with self._locked():
            if self.has(OFFLINE):
                return
            for part in self.folder.iterdir():  # Of older results, or of an attempt that was killed.
                if part.is_dir():
                    shutil.rmtree(part)
            run = Run.of(self.source, self.study)
            with Writer(config, offline=True) as writer:
                writer.write(run, self.folder)
            self._keep(OFFLINE, run)

    def send(self, destination: str, writer: Writer) -> bool:
        """Send the run by a writer that has reached the destination; False where it is there already."""
        with self._locked():
            if self.has(destination):
                return False
            run = Run.of(self.source, self.study)
            writer.write(run)
            self._keep(destination, run)
            return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock", timeout=2 * PATIENCE):
            yield

    def _sent(self) -> dict[str, str]:
        path = self.folder / "sent.json"
        if not path.exists():
            return {}
        try:
            sent: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not JSON: {error}; without it, the cell is sent again") from error
        return sent

    def _keep(self, destination: str, run: Run) -> None:
        sent = self._sent() | {destination: run.hash}
        replace_file(self.folder / "sent.json", json.dumps(sent, indent=2, sort_keys=True) + "\n")


def track(mirror: Mirror, config: TrackingConfig, say: Log) -> None:
    """Mirror a finished cell as the config wants it. What goes wrong is said in a line: the cell is finished."""
    try:
        if config.mode == "offline":
            mirror.write_offline(config)
        elif config.mode == "online":
            with Writer(config, offline=False) as writer:
                mirror.send(writer.reach(), writer)
    except Exception as error:  # Whatever it is: hours of work lie on disk, and wandb only shows them.
        ours = isinstance(error, TrackingError | InputError)
        say(f"tracking: {error if ours else f'{type(error).__name__}: {error}'}; {LATER}")
