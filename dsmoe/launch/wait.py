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

Place = tuple[Path, str]
"""A results folder and a study."""
Studies = Mapping[Place, Sequence[str]]
"""The cells to wait for, by where they lie."""


def wait(cells: Studies, reporter: Reporter) -> dict[Place, dict[str, Seen]]:
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
                every = [seen for of_study in found.values() for seen in of_study.values()]
                settled = sum(seen.condition not in UNSETTLED for seen in every)
                advance(settled, total, counted(every))
                if settled == total:
                    return found
            time.sleep(between)
            between = min(between * 1.2, MOST_SECONDS)


def look(cells: Studies) -> dict[Place, dict[str, Seen]]:
    """What is known of the cells now; the same cell may lie in several studies."""
    return {(results, study): only(survey(results, study), names) for (results, study), names in cells.items()}
