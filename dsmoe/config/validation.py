"""From the content of YAML or JSON to a config: every key known, every value possible, or one line that says why."""

import json
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from dsmoe.config import Config
from dsmoe.errors import InputError
from dsmoe.plugins import did_you_mean

SCHEMA = TypeAdapter(Config)
FREE = ("cluster.environment.", "cluster.sbatch.", "discovery.markers.", "generation.template_args.")
"""Keys below these are the user's own."""
WORDS = {
    "tuple_type": "a list, such as [a,b]",
    "too_short": "a list of one at least",
    "dataclass_type": "a group of keys",
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_too_short": "text, not empty",
}


def checked(content: dict[Any, Any]) -> Config:
    """The config that a JSON object holds, every key of it. Raises InputError for the first one at fault."""
    _refuse_unknown(content, Config, "")
    try:
        return SCHEMA.validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise InputError(first_fault(error, known_keys())) from error


def _refuse_unknown(content: dict[Any, Any], schema: type, prefix: str) -> None:
    known = nested(schema)
    for key, value in content.items():
        if key not in known:
            raise InputError(f"{prefix}{key}: is no key of the config{near_key(f'{prefix}{key}')}")
        held = known[key]
        if held is not None and isinstance(value, dict):
            _refuse_unknown(value, held, f"{prefix}{key}.")


@cache
def nested(schema: type) -> dict[str, type | None]:
    """The fields of a dataclass, each with the dataclass that it holds, alone or as one of a union, if it does."""
    held = {name: (hint, *get_args(hint)) for name, hint in get_type_hints(schema).items()}
    return {
        name: next((kind for kind in kinds if isinstance(kind, type) and is_dataclass(kind)), None)
        for name, kinds in held.items()
    }


def known_keys(schema: type = Config, prefix: str = "") -> list[str]:
    """All keys of the config, dotted."""
    keys = []
    for name, held in nested(schema).items():
        keys.append(f"{prefix}{name}")
        keys += known_keys(held, f"{prefix}{name}.") if held else []
    return keys


def near_key(key: str) -> str:
    """What to do about a key that there is not, to be put after the complaint."""
    if key.startswith("hydra.launcher."):
        return "; with hydra/launcher=slurm it may be one"
    if key.startswith(FREE):
        return f" yet; to add it, write +{key}=…"
    keys = known_keys()
    last = {known.rpartition(".")[2]: known for known in keys}
    return did_you_mean(key, keys) or did_you_mean(key.rpartition(".")[2], list(last)).replace(
        "did you mean ", "did you mean a key such as "
    )


def first_fault(error: ValidationError, keys: Sequence[str], prefix: str = "") -> str:
    """The first of the keys at fault, its value and all that would be allowed there."""
    faults: dict[str, list[Any]] = {}
    for fault in error.errors():
        parts = [*prefix.split(".")[:-1], *(str(part) for part in fault["loc"])]
        depth = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in keys), 0)
        faults.setdefault(".".join(parts[:depth]), []).append(fault)
    key, found = next(iter(faults.items()))
    if found[0]["type"] == "value_error":
        return f"{key}: {found[0]['ctx']['error']}" if key else str(found[0]["ctx"]["error"])
    found = [fault for fault in found if fault["type"] != "too_short"] or found  # A list is also short of bad members.
    if found[0]["type"] == "missing":
        return f"{prefix}{'.'.join(map(str, found[0]['loc']))}: is missing"
    allowed = " or ".join(dict.fromkeys(WORDS.get(fault["type"], fault["msg"]) for fault in found))
    allowed = allowed.replace("Input should be ", "")
    allowed = allowed.replace("less than inf", "finite").replace("greater than -inf", "finite")
    value = found[0]["input"]
    near = did_you_mean(str(value), re.findall(r"'([^']*)'", allowed))
    return f"{key}: {shown(value)} is not allowed; it should be {allowed}{near}"


def shown(value: Any) -> str:
    """A value as one would write it in an override."""
    return {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
