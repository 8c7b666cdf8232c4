"""What configs vary, by their keys' whole names."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def varied(configs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The dotted keys whose values are not the same in all configs, in the order of the alphabet.

    Of models that go by different names no more is told than the name, and which seed an embedded one is trained from.
    """
    flats = [{key: value for key, value in flat(config) if value != {}} for config in configs]
    keys = {key for one in flats for key in one}
    differ = sorted(key for key in keys if len({repr(one.get(key)) for one in flats}) > 1)
    if "model.name" in differ:
        told = ("model.name", "model.pretrain.seed")
        differ = [key for key in differ if key in told or not key.startswith("model.")]
    return tuple(differ)


def flat(content: Mapping[str, Any], prefix: str = "", mark: str = ".") -> Iterator[tuple[str, Any]]:
    """Every value with the keys that lead to it, joined by the mark; lists stay whole, and mappings that are empty."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}{mark}", mark)
        else:
            yield f"{prefix}{key}", value
