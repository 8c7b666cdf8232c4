"""Parts of data sets: read and split once for all cells of a sweep that mean the same."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from dsmoe import plugins
from dsmoe.config import Config, DatasetConfig, Origin
from dsmoe.domains.records import Record, content_hash
from dsmoe.domains.splits import Splits, split_records, transferred
from dsmoe.errors import InputError
from dsmoe.evaluation.task import Task
from dsmoe.models.checkpoint import content_of

SOURCES = "dsmoe.domains.sources"
TASKS = "dsmoe.evaluation.tasks"


@dataclass(frozen=True, eq=False)
class Part:
    """Records of one split and some domains; the same object for all cells of a sweep that mean the same."""

    records: tuple[Record, ...]

    @cached_property
    def hash(self) -> str:
        """A hash of what they say."""
        return content_hash(self.records)


def load_records(origin: Origin) -> list[Record]:
    """The records that the origin names. Raises InputError where there are none."""
    records: list[Record] = plugins.load(SOURCES, origin.source or "", f"{origin.key}.source").load(origin)
    if not records:
        raise InputError(f"{origin.path or origin.source}: has no records")
    return records


def content_at(origin: Origin) -> str | None:
    """A hash of the file that the origin names, if it names one."""
    return content_of(Path(origin.path)) if origin.path and Path(origin.path).is_file() else None


Read = tuple[DatasetConfig, Origin, tuple[str | None, ...]]
"""What records are read: the data set, where its test questions come from, and hashes of the files that these name."""


def read_of(config: Config) -> Read:
    """What a config has read."""
    return config.dataset, config.questions, (content_at(config.dataset), content_at(config.questions))


@lru_cache(maxsize=4)
def split_of(dataset: DatasetConfig, questions: Origin, contents: tuple[str | None, ...]) -> Splits:
    """The data set's records, tested by `questions`: read once for all cells of a sweep while the contents stay."""
    splits = split_records(load_records(dataset), dataset.splits)
    return splits if questions is dataset else transferred(splits, load_records(questions))


@lru_cache(maxsize=1024)
def part_of(read: Read, split: str, domains: tuple[str, ...], limit: int | None) -> Part:
    """The first `limit` records of a split and each domain."""
    splits = split_of(*read)
    return Part(tuple(record for domain in domains for record in splits.of(split, domain, limit)))


@lru_cache(maxsize=1024)
def examples_of(task: str, origin: Origin, part: Part, domain: str) -> str:
    """A hash of what the model is shown beside the domain's questions."""
    return task_of(task, origin, part, domain).examples


def task_of(task: str, origin: Origin, part: Part, domain: str) -> Task:
    """The part's questions as lm-eval wants them."""
    found: Task = plugins.load(TASKS, task, "benchmark.task").task(domain, part.records, origin)
    return found
