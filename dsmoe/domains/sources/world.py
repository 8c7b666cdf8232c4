"""The embedded world: facts that come with the package."""

from dsmoe.config import DatasetConfig
from dsmoe.domains import world
from dsmoe.domains.records import Record
from dsmoe.errors import InputError


def load(config: DatasetConfig) -> list[Record]:
    """All questions of the embedded world."""
    if config.path is not None:
        raise InputError("dataset.path: the embedded world has no file; for your own say dataset=records")
    return world.records()
