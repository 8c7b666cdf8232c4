"""Mirrors: what wandb has of results, offline and at servers, each made once for the results as they are."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsmoe.config import TrackingConfig
from dsmoe.disk import replace_file
from dsmoe.errors import InputError
from dsmoe.stage import Log, tracking_folder
from dsmoe.tracking.dashboard import Dashboard
from dsmoe.tracking.run import Run, cell_run, results_hash
from dsmoe.tracking.sent import OFFLINE, Sent
from dsmoe.tracking.stages import stage_run
from dsmoe.tracking.writer import TrackingError, Writer

LATER = "the results stay, and dsmoe publish sends them"


@dataclass(frozen=True)
class Mirror:
    """One finished cell of a study, or a stage that is shown by itself, and what wandb has of it.

    Below the tracking folder lie the files of its offline run, and `sent.json`. `sweep` are the keys that the cells of
    the study differ in, as far as they are known.
    """

    results: Path
    study: str
    cell: str
    sweep: tuple[str, ...] = ()

    @classmethod
    def of_stage(cls, folder: Path) -> "Mirror":
        """The mirror of an analysis or a calibration, beside the stage: it belongs to no study."""
        return cls(folder.parents[2], f"stages/{folder.parent.name}", folder.name)

    @property
    def source(self) -> Path:
        """The folder of the results, which is never written to."""
        return self.results / self.study / self.cell

    @property
    def folder(self) -> Path:
        """Where the mirror lies."""
        return tracking_folder(self.results, self.study) / self.cell

    def write_offline(self, config: TrackingConfig) -> None:
        """Write the offline run, unless it is there; what the sweep varies is as was known then."""
        sent, stamp = Sent(self.folder), self._stamp(())
        with sent.locked():
            if sent.has(OFFLINE, stamp):
                return
            for part in self.folder.iterdir():  # Of older results, or of an attempt that was killed.
                if part.is_dir():
                    shutil.rmtree(part)
            with Writer(config, offline=True) as writer:
                writer.write(self._run(), self.folder)
            sent.keep(OFFLINE, stamp)

    def send(self, destination: str, writer: Writer) -> bool:
        """Send the run by a writer that has reached the destination; False where it is there already."""
        sent, stamp = Sent(self.folder), self._stamp(self.sweep)
        with sent.locked():
            if sent.has(destination, stamp):
                return False
            writer.write(self._run())
            sent.keep(destination, stamp)
            return True

    def _is_stage(self) -> bool:
        return self.study.startswith("stages/")

    def _stamp(self, sweep: Sequence[str]) -> str:
        """What tells other results, or the same ones of a sweep that varies other keys, from these."""
        return " ".join([self.cell if self._is_stage() else results_hash(self.source), *sweep])

    def _run(self) -> Run:
        return stage_run(self.source) if self._is_stage() else cell_run(self.source, self.study, self.sweep)


@dataclass(frozen=True)
class DashboardMirror:
    """A study's dashboard below its tracking folder, as JSON, and where it was sent."""

    source: Path
    dashboard: Dashboard

    @classmethod
    def of(cls, results: Path, study: str, dashboard: Dashboard) -> "DashboardMirror":
        """The one mirror of the study's dashboard."""
        return cls(tracking_folder(results, study) / "dashboard" / "dashboard.json", dashboard)

    def write_offline(self, config: TrackingConfig) -> None:
        """Write the JSON, unless it is there."""
        if not Sent(self.source.parent).has(OFFLINE, self.dashboard.hash):
            with Writer(config, offline=True) as writer:
                self.send(OFFLINE, writer)

    def send(self, destination: str, writer: Writer) -> bool:
        """Make it, and keep what was made as JSON; False where the destination has it already."""
        sent, stamp = Sent(self.source.parent), self.dashboard.hash
        with sent.locked():
            if sent.has(destination, stamp):
                return False
            replace_file(self.source, json.dumps(writer.show(self.dashboard), indent=2, ensure_ascii=False) + "\n")
            for place in {destination, OFFLINE}:
                sent.keep(place, stamp)
            return True


def track(mirror: Mirror, config: TrackingConfig, say: Log) -> None:
    """Mirror finished results as the config wants it. What goes wrong is said in a line: the results are there."""
    try:
        if config.mode == "offline":
            mirror.write_offline(config)
        elif config.mode == "online":
            with Writer(config, offline=False) as writer:
                mirror.send(writer.reach(), writer)
    except Exception as error:  # Whatever it is: hours of work lie on disk, and wandb only shows them.
        say(f"tracking: {reason(error)}; {LATER}")


def reason(error: Exception) -> str:
    """What an error says; of one that is not ours its kind too."""
    return str(error) if isinstance(error, TrackingError | InputError) else f"{type(error).__name__}: {error}"
