"""Modules that are found by their file's name: a scoring rule, a model family, a source of records is one new file."""

import importlib
import pkgutil
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from types import ModuleType

from dsmoe.errors import InputError


@cache
def names(package: str) -> tuple[str, ...]:
    """The modules of `package`, sorted; none of them is imported."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)))


def load(package: str, name: str, key: str) -> ModuleType:
    """The module `name` of `package`; `key` is the config key that named it.

    Raises InputError where there is no such module.
    """
    known = names(package)
    if name not in known:
        raise InputError(f"{key}: {name!r} is not one of {', '.join(known)}{did_you_mean(name, known)}")
    return importlib.import_module(f"{package}.{name}")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`; did you mean X?` where something known is spelled alike, else nothing."""
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
