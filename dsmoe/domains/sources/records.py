"""A file of the user's own."""

from dsmoe.config import Origin
from dsmoe.domains.read import read_records
from dsmoe.domains.records import Record
from dsmoe.errors import InputError


def load(config: Origin) -> list[Record]:
    """All records of the file at the path."""
    if config.path is None:
        raise InputError(f"{config.key}.path: source=records wants {config.key}.path=FILE, your own questions")
    return read_records(config.path)
