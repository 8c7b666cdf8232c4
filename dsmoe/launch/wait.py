"""Waiting until cells are settled: finished, failed or lost."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dsmoe.launch.queue import SlurmSilentError
from dsmoe.launch.survey import UNSETTLED, Seen, counted, only, survey
from dsmoe.progress import Reporter

SECONDS, MOST_SECONDS = 1.0, 15.0
"""Between two looks, at first and in the long run: squeue is a burden that all users of a cluster share."""
PATIENCE = 1800.0
"""Seconds that Slurm may be silent, as it is while its controller is started anew."""

Studies = Mapping[tuple[Path, str], Sequence[str]]
"""The cells to wait for, by their results folder and study."""


def wait(cells: Studies, reporter: Reporter) -> dict[str, Seen]:
    """What became of the cells, once none of them is queued or running any more."""
    total = sum(map(len, cells.values()))
    between, heard = SECONDS, time.monotonic()
    with reporter.work("jobs") as advance:
        while True:
            try:
                found = look(cells)
                heard = time.monotonic()
            except SlurmSilentError as error:
                if time.monotonic() - heard > PATIENCE:
                    raise
                reporter.say(str(error))
            else:
                settled = sum(seen.condition not in UNSETTLED for seen in found.values())
                advance(settled, total, counted(found.values()))
                if settled == total:
                    return found
            time.sleep(between)
            between = min(between * 1.2, MOST_SECONDS)


def look(cells: Studies) -> dict[str, Seen]:
    """What is known of the cells now."""
    return {
        cell: seen
        for (results, study), names in cells.items()
        for cell, seen in only(survey(results, study), names).items()
    }
