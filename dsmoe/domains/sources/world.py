"""The embedded world: facts that come with the package."""

from dsmoe.config import Origin
from dsmoe.domains import world
from dsmoe.domains.records import Record
from dsmoe.errors import InputError


def load(config: Origin) -> list[Record]:
    """All questions of the embedded world."""
    if config.path is not None:
        raise InputError(
            f"{config.key}.path: the embedded world has no file; for your own say {config.key}.source=records"
        )
    return world.records()
