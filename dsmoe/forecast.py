"""A forecast: what of some cells is missing, why, and how long it would take."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from dsmoe.cell import Cell
from dsmoe.effort import Effort, efforts
from dsmoe.journal import last_line
from dsmoe.launch.survey import Seen, survey
from dsmoe.models.duration import Work, assumed
from dsmoe.stage import is_finished, journal_file

SHOWN = 100
"""Characters of an error."""


@dataclass(frozen=True)
class Outlook:
    """One cell: why it is missing (empty where it is finished), which of how many stages, and for how long.

    A stage that several cells miss counts in the first of them; `missing` has it in all of them.
    """

    cell: Cell
    reason: str
    stages: int
    missing: tuple[Effort, ...]
    seconds: float


@dataclass(frozen=True)
class Kind:
    """Missing stages of one name: how many, for how many seconds, and from how many finished ones that is known."""

    name: str
    stages: int
    seconds: float
    known_from: int
    rate: str


@dataclass(frozen=True)
class Forecast:
    """What is missing of all cells."""

    outlooks: tuple[Outlook, ...]
    kinds: tuple[Kind, ...]

    @property
    def seconds(self) -> float:
        """For all of it, each stage once and one after the other."""
        return sum(kind.seconds for kind in self.kinds)


@dataclass(frozen=True)
class Made:
    """What is finished: the stages' hashes; and by a stage's name and model how many, their seconds and their work."""

    hashes: frozenset[str]
    took: Mapping[tuple[str, str], tuple[int, float, Work]]


def forecast(cells: Sequence[Cell]) -> Forecast:
    """What is missing of the cells, in their order."""
    submitted = {place: survey(*place) for place in dict.fromkeys((cell.results, cell.config.study) for cell in cells)}
    made = {results: _made(results) for results in dict.fromkeys(cell.results for cell in cells)}
    counted: set[str] = set()
    outlooks = []
    kinds: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    for cell in cells:
        if is_finished(cell.folder):
            outlooks.append(Outlook(cell, "", 0, (), 0.0))
            continue
        every = efforts(cell)
        missing = _missing(every, made[cell.results].hashes)
        seconds = 0.0
        for effort in missing:
            if effort.stage.hash not in counted:
                counted.add(effort.stage.hash)
                one, known_from, rate = _seconds(cell, effort, made[cell.results])
                kinds[effort.stage.name, known_from, rate].append(one)
                seconds += one
        seen = submitted[cell.results, cell.config.study].get(cell.id)
        outlooks.append(Outlook(cell, _reason(cell, seen), len(every), tuple(missing), seconds))
    summed = tuple(
        Kind(name, len(each), sum(each), known_from, rate) for (name, known_from, rate), each in kinds.items()
    )
    return Forecast(tuple(outlooks), summed)


def named(missing: Iterable[Effort], domains: int) -> str:
    """The stages in few words; of a method that has all `domains` to do, they are not named."""
    words, asked = [], defaultdict(list)
    for effort in missing:
        if effort.method:
            asked[effort.method].append(effort.domain)
        else:
            words.append(effort.stage.name.replace("_", "-"))
    for method, of in asked.items():
        words.append(f"evaluate {method}" + (f" on {', '.join(of)}" if len(of) < domains else ""))
    return "; ".join(words)


def _missing(every: Sequence[Effort], finished: Set[str]) -> list[Effort]:
    """What is not finished, without that which nothing that is missing wants."""
    missing = [effort for effort in every if effort.stage.hash not in finished]
    wanted = {effort.stage.name for effort in missing}
    if "score" not in wanted:
        wanted.discard("discover")
    if not wanted & {"discover", "fine_tune", "evaluate"}:
        wanted.discard("pretrain")
    return [effort for effort in missing if effort.stage.name in wanted]


def _reason(cell: Cell, seen: Seen | None) -> str:
    """Why a cell has no results: what Slurm or its job says or, where it had none, its journal."""
    if seen is not None:
        return f"{seen.condition}: {_short(seen.error)}" if seen.error else seen.condition
    last = last_line(journal_file(cell.results, cell.config.study, cell.id))
    if last is None:
        return "never run"
    if last["event"] == "failed":
        return f"failed: {_short(last['error'])}"
    if (last["event"], last["stage"]) == ("finished", "compare"):
        return "finished once, its folder is gone"
    return "begun, not finished"


def _short(error: str) -> str:
    return shorten(error, SHOWN, placeholder=" …")


def _seconds(cell: Cell, effort: Effort, made: Made) -> tuple[float, int, str]:
    """How long a stage would take; from how many finished ones that is, or the rate that is assumed."""
    rate = assumed(cell.node.device, cell.node.threads, cell.config.model.dtype)
    seconds = rate.seconds(effort.work)
    count, measured, work = made.took.get((effort.stage.name, effort.model), (0, 0.0, Work()))
    if count and (expected := rate.seconds(work)):
        return seconds * measured / expected, count, ""
    return seconds, 0, str(rate)


def _made(results: Path) -> Made:
    """What finished stages say of themselves, read once for all cells."""
    hashes, took = [], dict[tuple[str, str], tuple[int, float, Work]]()
    # Hidden ones are not whole.
    for path in (results / "stages").glob("*/[!.]*/status.json"):
        hashes.append(path.parent.name)
        status = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(work := status.get("work"), dict):  # Older stages say nothing of it.
            continue
        key = (path.parts[-3], work["model"])
        count, seconds, total = took.get(key, (0, 0.0, Work()))
        one = Work(work["flop"], work["read_bytes"])
        took[key] = (count + 1, seconds + status["own_seconds"], total + one)
    return Made(frozenset(hashes), took)
