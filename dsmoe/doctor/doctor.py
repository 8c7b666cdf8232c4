"""What `dsmoe doctor` does: every check in turn, a line each."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from dsmoe.compose import Composed
from dsmoe.config import Config
from dsmoe.doctor.finding import Finding, bounded, trouble
from dsmoe.doctor.folder import ELSEWHERE, results_folder
from dsmoe.doctor.hub import hub
from dsmoe.doctor.machine import machine
from dsmoe.doctor.packages import packages
from dsmoe.doctor.slurm import slurm
from dsmoe.doctor.tracking import tracking


def doctor(composed: Sequence[Composed]) -> int:
    """Check this machine and the cluster that it is part of, and say how to mend what is wrong; 1 if it is trouble."""
    (one,) = composed
    console = Console(highlight=False, soft_wrap=True)
    levels = set()
    for finding in _findings(one.config):
        levels.add(finding.level)
        console.print(f"{finding.level:<9}{finding.text}", markup=False)
        if finding.mend:
            console.print(f"{'':<9}{finding.mend}", markup=False)
    return int("trouble" in levels)


def _findings(config: Config) -> Iterator[Finding]:
    yield from packages()
    yield from machine(config.model)
    late = trouble(f"paths.results: the file system of {config.paths.results} does not answer", ELSEWHERE)
    folder = list(bounded(lambda: results_folder(config.paths.results), 60, late))
    yield from folder
    usable = all(finding.level != "trouble" for finding in folder)
    yield from slurm(Path(config.paths.results) if usable else None)
    yield from hub(config.model)
    yield from tracking(config.tracking, config.paths.results)
