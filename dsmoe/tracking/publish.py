"""The verb `publish`: every finished cell of a study, at the wandb server."""

from collections.abc import Sequence
from pathlib import Path

from dsmoe.compose import Composed
from dsmoe.config import TrackingConfig
from dsmoe.errors import InputError
from dsmoe.progress import Reporter
from dsmoe.stage import is_finished
from dsmoe.tracking.mirror import Mirror
from dsmoe.tracking.writer import TrackingError, Writer


def publish(composed: Sequence[Composed]) -> int:
    """Send what the server does not have yet, study by study; status 1 where something could not be sent.

    Raises InputError for a study without a finished cell, before anything is sent.
    """
    reporter = Reporter()
    configs = [one.config for one in composed]
    studies = dict.fromkeys((Path(config.paths.results), config.study, config.tracking) for config in configs)
    found = [(results / study, _finished(results, study), tracking) for results, study, tracking in studies]
    try:
        return int(sum(_send(folder, cells, tracking, reporter) for folder, cells, tracking in found) > 0)
    except TrackingError as error:
        reporter.say(f"publish: {error}; what was not sent is sent by the same command again")
        return 1


def _finished(results: Path, study: str) -> list[Mirror]:
    """The finished cells of a study. Raises InputError where there are none."""
    folders = [path.parent for path in sorted((results / study).glob("*/status.json"))]
    cells = [Mirror(results, study, folder.name) for folder in folders if is_finished(folder)]
    if not cells:
        raise InputError(f"{results / study}: holds no finished cell; study=NAME and paths.results=FOLDER name others")
    return cells


def _send(folder: Path, cells: Sequence[Mirror], config: TrackingConfig, reporter: Reporter) -> int:
    """How many cells are not at the server in the end. Raises TrackingError where it cannot be reached."""
    left, counts = list(cells), {"sent": 0, "there already": 0, "not sent": 0}
    with reporter.work(f"publish: {folder}") as advance:
        while left:
            # A new one after a failure: the next cell has nothing to do with it, if the server is still there.
            with Writer(config, offline=False) as writer:
                destination, outcome = writer.reach(), ""
                while left and outcome != "not sent":
                    outcome = _outcome(left.pop(0), destination, writer, reporter)
                    counts[outcome] += 1
                    advance(len(cells) - len(left), len(cells))
    reporter.say(f"{destination}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items() if count)}")
    return counts["not sent"]


def _outcome(cell: Mirror, destination: str, writer: Writer, reporter: Reporter) -> str:
    try:
        return "sent" if cell.send(destination, writer) else "there already"
    except (TrackingError, InputError, OSError) as error:
        reporter.say(f"not sent: {cell.source}: {error}")
        return "not sent"
