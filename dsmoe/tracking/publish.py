"""The verb `publish`: every finished cell of a study, at the wandb server, and a dashboard of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsmoe.compose import Composed
from dsmoe.config import TrackingConfig
from dsmoe.errors import InputError
from dsmoe.progress import Reporter
from dsmoe.report.varied import varied
from dsmoe.results import Results
from dsmoe.stage import is_finished
from dsmoe.tracking.dashboard import Dashboard
from dsmoe.tracking.mirror import DashboardMirror, Mirror, reason
from dsmoe.tracking.run import name
from dsmoe.tracking.stages import finished_stages
from dsmoe.tracking.writer import TrackingError, Writer

SENT, THERE, NOT_SENT = "sent", "there already", "not sent"


@dataclass(frozen=True)
class Shown:
    """What wandb is to show of a study: runs of its cells and of its results folder's analyses, and a dashboard."""

    folder: Path
    tracking: TrackingConfig
    runs: Sequence[Mirror]
    dashboard: DashboardMirror | None
    """None where there is no cell to show."""

    @classmethod
    def of(cls, results: Path, study: str, tracking: TrackingConfig, reporter: Reporter) -> "Shown":
        """A study as it lies on disk. Raises InputError where nothing is finished there."""
        folder = results / study
        cells = [path.parent for path in sorted(folder.glob("*/status.json")) if is_finished(path.parent)]
        stages = finished_stages(results)
        if not cells:
            missing = f"{folder}: holds no finished cell"
            if not stages:
                raise InputError(f"{missing}; study=NAME and paths.results=FOLDER name others")
            reporter.say(f"{missing}; analyses alone are sent")
        found = [one for cell in cells if (one := _read(cell)) is not None]
        sweep = varied([one.config for one in found])
        runs = [Mirror(results, study, cell.name, sweep) for cell in cells]
        dashboard = Dashboard.of(study, [(name(one, sweep), one) for one in found])
        return cls(
            folder,
            tracking,
            [*runs, *map(Mirror.of_stage, stages)],
            DashboardMirror.of(results, study, dashboard) if found else None,
        )


def publish(composed: Sequence[Composed]) -> int:
    """Send what the server does not have yet, study by study; status 1 where something could not be sent.

    Raises InputError for a study without a finished cell, before anything is sent.
    """
    reporter = Reporter()
    configs = [one.config for one in composed]
    studies = dict.fromkeys((Path(config.paths.results), config.study, config.tracking) for config in configs)
    found = [Shown.of(*study, reporter) for study in studies]
    try:
        return int(sum(_send(shown, reporter) for shown in found) > 0)
    except TrackingError as error:
        reporter.say(f"publish: {error}; what was not sent is sent by the same command again")
        for shown in found:
            if shown.dashboard is not None:
                _keep(shown.dashboard, shown.tracking, reporter)
        return 1


def _read(cell: Path) -> Results | None:
    """A cell's results; None where they cannot be read, which is said when they are to be sent."""
    try:
        return Results.read(cell / "results.json")
    except InputError:
        return None


def _send(shown: Shown, reporter: Reporter) -> int:
    """How many things are not at the server in the end. Raises TrackingError where it cannot be reached."""
    left: list[Mirror | DashboardMirror] = [*shown.runs, *([shown.dashboard] if shown.dashboard else [])]
    total, outcomes = len(left), []
    with reporter.work(f"publish: {shown.folder}") as advance:
        while left:
            # A new one after a failure: what comes next has nothing to do with it, if the server is still there.
            with Writer(shown.tracking, offline=False) as writer:
                destination, outcome = writer.reach(), ""
                while left and outcome != NOT_SENT:
                    outcome = _outcome(left.pop(0), destination, writer, reporter)
                    outcomes.append(outcome)
                    advance(len(outcomes), total)
    of_runs = Counter(outcomes[: len(shown.runs)])
    counts = ", ".join(f"{of_runs[outcome]} {outcome}" for outcome in (SENT, THERE, NOT_SENT) if of_runs[outcome])
    reporter.say("; ".join([f"{destination}: {counts}", *(f"dashboard {one}" for one in outcomes[len(shown.runs) :])]))
    return outcomes.count(NOT_SENT)


def _outcome(mirror: Mirror | DashboardMirror, destination: str, writer: Writer, reporter: Reporter) -> str:
    try:
        return SENT if mirror.send(destination, writer) else THERE
    except Exception as error:  # Whatever it is: the others have nothing to do with it.
        reporter.say(f"{NOT_SENT}: {mirror.source}: {reason(error)}")
        return NOT_SENT


def _keep(dashboard: DashboardMirror, tracking: TrackingConfig, reporter: Reporter) -> None:
    """Keep the dashboard as JSON, where no server takes it."""
    try:
        dashboard.write_offline(tracking)
        reporter.say(f"dashboard: {dashboard.source}")
    except (TrackingError, InputError, OSError) as error:
        reporter.say(f"dashboard: not written: {error}")
