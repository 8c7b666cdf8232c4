"""A file of the user's own."""

from dsmoe.config import DatasetConfig
from dsmoe.domains.read import read_records
from dsmoe.domains.records import Record
from dsmoe.errors import InputError


def load(config: DatasetConfig) -> list[Record]:
    """All records of the file `dataset.path`."""
    if config.path is None:
        raise InputError("dataset.path: dataset=records wants dataset.path=FILE, your own questions")
    return read_records(config.path)
