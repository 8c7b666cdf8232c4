"""MMLU-Pro (arXiv 2406.01574): its test questions, from the Hub, a copy of its repository there, or a file."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsmoe.config import Origin
from dsmoe.domains.hub import download
from dsmoe.domains.read import read_records, to_records
from dsmoe.domains.records import Record
from dsmoe.errors import InputError

HUB = "TIGER-Lab/MMLU-Pro"


def load(config: Origin) -> list[Record]:
    """All test questions of MMLU-Pro, each with its category as the domain."""
    if config.path is not None and not Path(config.path).is_dir():
        records = read_records(config.path)
    else:
        source = config.path or HUB
        rows = enumerate(rows_of_split(config))
        records = to_records(((f"{source}: row {number}", row) for number, row in rows), source)
    # MMLU-Pro calls all its questions "test"; which of them are ours to test with, our own splits say.
    return [replace(record, split=None) for record in records]


def rows_of_split(config: Origin, split: str = "test") -> Iterable[dict[str, Any]]:
    """The rows of MMLU-Pro's own split `test` or `validation`, from the Hub or from the copy at the path.

    They have the Hub's field names. Raises InputError in one line where they cannot be had.
    """
    source = config.path or HUB
    if config.path is not None and not any(Path(config.path).glob(f"data/{split}-*")):
        raise InputError(f"{config.key}.path: {source} is no copy of {HUB}: it has no data/{split}-*")
    return download(config, source, split)
