"""DSMoE: find a domain's experts in a Mixture-of-Experts model, steer toward them, and compare honestly."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsmoe.discovery.discover import discover as discover
    from dsmoe.discovery.profile import ExpertProfile as ExpertProfile
    from dsmoe.domains.read import read_records as read_records
    from dsmoe.domains.records import Record as Record
    from dsmoe.errors import InputError as InputError
    from dsmoe.steering.export import load_steered as load_steered
    from dsmoe.steering.steer import steer as steer
    from dsmoe.steering.steering import Steering as Steering

_HOMES = {
    "ExpertProfile": "dsmoe.discovery.profile",
    "InputError": "dsmoe.errors",
    "Record": "dsmoe.domains.records",
    "Steering": "dsmoe.steering.steering",
    "discover": "dsmoe.discovery.discover",
    "load_steered": "dsmoe.steering.export",
    "read_records": "dsmoe.domains.read",
    "steer": "dsmoe.steering.steer",
}
__all__ = sorted(_HOMES)  # noqa: PLE0605 (names are imported when first used: `import dsmoe` alone loads no torch)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dsmoe' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
