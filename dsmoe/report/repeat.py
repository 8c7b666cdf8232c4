"""The command that makes a cell again: choices of groups, and overrides where its config is not the default."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Quote, QuotedString

from dsmoe.config import choices, config_root
from dsmoe.report.varied import flat

Config = Mapping[str, Any]
OWN = ("discovery.markers.", "generation.template_args.")
"""Keys below these are the user's own, not of the schema."""
MISSING = "???"
"""What stands in a file for a value that is still to be given."""


def command(config: Config) -> str:
    """A line for a shell. `config` is that of results: without what no result depends on."""
    chosen: dict[str, str] = {}
    for group in sorted(_defaults_of_groups(), key=lambda group: group != "model"):  # A model's file may choose others.
        if group in config:
            closest = _distance(_composed(chosen), config)
            for name in choices(config_root() / "conf" / group):
                if (distance := _distance(_composed({**chosen, group: name}), config)) < closest:
                    closest, chosen[group] = distance, name
    overrides = [f"{group}={name}" for group, name in chosen.items()]
    return " ".join(["dsmoe", "compare", *map(shlex.quote, [*overrides, *_rest(_composed(chosen), config)])])


def _rest(composed: Config, config: Config) -> Iterator[str]:
    """Key by key what the files leave otherwise."""
    there, wanted = dict(flat(composed)), dict(flat(config))
    for key, value in wanted.items():
        if key not in there:
            yield f"{'+' if key.startswith(OWN) else ''}{key}={_value(value)}"
        elif there[key] != value:
            yield f"{key}={_value(value)}"
    yield from (f"~{key}" for key in there if key not in wanted and key.startswith(OWN))


def _value(value: Any) -> str:
    """A value in the grammar of overrides."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}: {_value(one)}" for key, one in value.items()) + "}"
    if not isinstance(value, str):
        return json.dumps(value)
    plain = re.fullmatch("[A-Za-z0-9_./-]+", value)
    if plain and value.lower() not in ("null", "true", "false") and not _number(value):
        return value
    # Even in quotes ${ would begin an interpolation.
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return QuotedString(literal, Quote.single).with_quotes()


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _distance(composed: Config, config: Config) -> int:
    there, wanted = dict(flat(composed)), dict(flat(config))
    differ = sum(there.get(key) not in (value, MISSING) for key, value in wanted.items())
    return differ + sum(key not in wanted for key in there)


@cache
def _yaml(path: Path) -> tuple[str, Any]:
    text = path.read_text(encoding="utf-8")
    return text, yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _defaults_of_groups() -> dict[str, str]:
    """Groups with their default choice, in the order in which they are composed."""
    _, content = _yaml(config_root() / "conf" / "config.yaml")
    return {group: name for entry in content["defaults"] if isinstance(entry, dict) for group, name in entry.items()}


def _composed(chosen: Mapping[str, str]) -> Config:
    """The defaults with the chosen files of groups."""
    _, content = _yaml(config_root() / "conf" / "config.yaml")
    composed: Config = {key: value for key, value in content.items() if key != "defaults"}
    for group, default in _defaults_of_groups().items():
        composed = _below(composed, _content(group, chosen.get(group, default), chosen))
    return composed


def _content(group: str, name: str, chosen: Mapping[str, str]) -> Config:
    """What a file of a group sets, with the files that it builds on; of other groups those that are not chosen."""
    text, content = _yaml(config_root() / "conf" / group / f"{name}.yaml")
    content = dict(content or {})
    below: Config = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            below = _below(below, _content(group, entry, chosen))
        elif isinstance(entry, dict):
            for other, choice in entry.items():
                where = other.removeprefix("override ").strip().lstrip("/")
                below = _below(below, _content(where, chosen.get(where, choice), chosen))
    return _below(below, content if text.startswith("# @package _global_") else {group: content})


def _below(under: Config, above: Config) -> dict[str, Any]:
    """The one config with the other over it."""
    both = {**under, **above}
    nested = [key for key in under if isinstance(under[key], Mapping) and isinstance(above.get(key), Mapping)]
    return both | {key: _below(under[key], above[key]) for key in nested}
