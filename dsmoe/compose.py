"""From Hydra overrides to checked configs: one for a run, one a cell for a sweep.

Whatever is wrong with them ends in an InputError of one line, before anything is written.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from dsmoe.config import Config, LauncherConfig, choices, config_root
from dsmoe.config.files import reading_yaml
from dsmoe.config.validation import checked, first_fault, near_key, nested, shown
from dsmoe.errors import InputError
from dsmoe.plugins import did_you_mean

LAUNCHER = TypeAdapter(LauncherConfig)
GROUPS = ("conf", "")
"""Where groups' folders are, below the root: `sweeps` lies beside `conf`."""
REFERENCE = re.compile(r"\$\{(?!oc\.env:)")
"""What takes a value from elsewhere in the config."""
MISSING = '"???"'
"""How a value that is still to be given stands in JSON."""
IN_PROCESS = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
IN_ORDER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""Hydra's own launcher and sweeper: what is not one of them, nor in conf/hydra, would need Hydra's own main."""


@dataclass(frozen=True)
class Composed:
    """One cell: its overrides, as given or as the sweep chose them, and the config that they make.

    Of `overrides`, which are shown and logged, those of cluster.environment are left out: no result depends on them.
    `launcher` is who runs it, the same for all cells of a sweep; None is this process.
    """

    overrides: tuple[str, ...]
    config: Config
    launcher: LauncherConfig | None = None


def compose_cells(overrides: Sequence[str], multirun: bool = False) -> list[Composed]:
    """The configs that the overrides ask for, in the sweep's order, all of them checked."""
    root = config_root()
    try:
        with reading_yaml(root), initialize_config_dir(version_base="1.3", config_dir=str(root / "conf")):
            cells, launcher, composed = _cells(list(overrides), root, multirun)
            composer = _Composer(root)
            configs = (_checked(composed) if composed is not None else composer(cell) for cell in cells)
            return [
                Composed(tuple(filter(_may_be_shown, cell)), config, launcher)
                for cell, config in zip(cells, configs, strict=True)
            ]
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_explained(error)) from error


def _may_be_shown(override: str) -> bool:
    return not override.lstrip("+~").startswith("cluster.environment")


def _compose(overrides: Sequence[str], root: Path, with_hydra: bool = False) -> DictConfig:
    for override in _parsed(overrides):
        _check_choice(override, root)
    searchpath = f"hydra.searchpath=[file://{root}]"
    return compose("config", [*overrides, searchpath], return_hydra_config=with_hydra)


class _Composer:
    """Composes cells one after the other; those that choose the same files read them once.

    Hydra composes anew for every cell, which takes most of the time of a large sweep. Whatever is more than another
    value for a key that is there is left to it, and so is whatever is wrong.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents: dict[tuple[str, ...], str | None] = {}
        """Contents by the files that were chosen; None where a key takes its value from another, which may change."""
        self._parsed: dict[str, tuple[Override, bool]] = {}
        """Overrides by their lines, and which of them choose a file."""

    def __call__(self, overrides: Sequence[str]) -> Config:
        for line in overrides:
            if line not in self._parsed:
                (override,) = _parsed([line])
                self._parsed[line] = override, self._chooses(override)
        given = [self._parsed[line] for line in overrides]
        files = tuple(_line(override) for override, chooses in given if chooses)
        if files not in self._contents:
            composed = _compose(files, self._root)
            refers = REFERENCE.search(json.dumps(OmegaConf.to_container(composed)))
            self._contents[files] = None if refers else json.dumps(OmegaConf.to_container(composed, resolve=True))
        if (known := self._contents[files]) is None:
            return _checked(_compose(overrides, self._root))
        content = json.loads(known)
        for override, chooses in given:
            if not chooses and not _is_set(override, content):
                return _checked(_compose(overrides, self._root))
        if MISSING in json.dumps(content):
            return _checked(_compose(overrides, self._root))
        return checked(content)

    def _chooses(self, override: Override) -> bool:
        """Whether it chooses a file, or is a setting of Hydra's, which is in no cell's config."""
        key = override.key_or_group
        return key.startswith("hydra") or (bool(key) and any((self._root / above / key).is_dir() for above in GROUPS))


def _is_set(override: Override, content: dict[Any, Any]) -> bool:
    """Give a key of the content its value, if it has one there and the value is a plain one; whether that was so."""
    *above, last = override.key_or_group.split(".")
    node: Any = content
    for key in above:
        node = node.get(key) if isinstance(node, dict) else None
    if override.type != OverrideType.CHANGE or not isinstance(node, dict) or last not in node:
        return False
    value = override.value()
    if isinstance(node[last], dict) or override.package is not None or any(mark in repr(value) for mark in "${\\"):
        return False
    node[last] = value
    return True


def _cells(
    overrides: list[str], root: Path, multirun: bool
) -> tuple[list[list[str]], LauncherConfig | None, DictConfig | None]:
    """The overrides of every cell, one or all combinations of a sweep; who runs them; the config, where it is one."""
    parsed = _parsed(overrides)
    swept = [override for override in parsed if override.is_sweep_override()]
    fixed = [override for override in parsed if not override.is_sweep_override()]
    if whole := [override for override in swept if override.key_or_group.startswith("hydra")]:
        raise InputError(f"{_line(whole[0])}: is a setting of the whole sweep, not of a cell; choose one value")
    composed = _compose([_line(override) for override in fixed], root, with_hydra=True)
    hydra = composed.hydra
    launcher = _launcher(hydra, root)
    if not (multirun or hydra.mode == RunMode.MULTIRUN):
        if swept:
            raise InputError(f"{_line(swept[0])}: is a sweep of several values; add -m to run it, or choose one")
        return [overrides], launcher, OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    given = {override.key_or_group for override in parsed}
    params = {key: value for key, value in (hydra.sweeper.params or {}).items() if key not in given}
    every = [*overrides, *(f"{key}={value}" for key, value in params.items())]
    (cells,) = BasicSweeper.split_arguments(_parsed(every), max_batch_size=None)
    if not cells:
        raise InputError(f"{' '.join(map(_line, swept))}: is a sweep of no values")
    return [list(cell) for cell in cells], launcher, None


def _launcher(hydra: DictConfig, root: Path) -> LauncherConfig | None:
    """Who runs the cells, as `hydra/launcher` chooses; None for this process."""
    for group, own in (("hydra/launcher", IN_PROCESS), ("hydra/sweeper", IN_ORDER)):
        node = hydra[group.partition("/")[2]]
        ours = choices(root / "conf" / group)
        chosen = hydra.runtime.choices[group]
        if node.get("_target_") != own and chosen not in ours:
            raise InputError(f"{group}: {chosen!r} is not one of {', '.join(sorted(['basic', *ours]))}")
    if hydra.launcher.get("_target_") == IN_PROCESS:
        return None
    prefix = "hydra.launcher."
    content = OmegaConf.to_container(hydra.launcher, resolve=True, throw_on_missing=True)
    assert isinstance(content, dict)
    if unknown := sorted(content.keys() - nested(LauncherConfig).keys()):
        raise InputError(f"{prefix}{unknown[0]}: is no key of the launcher; it has {', '.join(nested(LauncherConfig))}")
    try:
        return LAUNCHER.validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise InputError(first_fault(error, [prefix + name for name in nested(LauncherConfig)], prefix)) from error


def _parsed(overrides: Sequence[str]) -> list[Override]:
    return OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))


def _line(override: Override) -> str:
    return override.input_line or ""


def _check_choice(override: Override, root: Path) -> None:
    """Refuse an override without a key, or with a number as a group's choice: Hydra has no error for them."""
    key = override.key_or_group
    if not key:
        raise InputError(f"{_line(override)!r}: is no override; it wants a key, as in KEY=VALUE")
    if override.is_delete() or override.is_sweep_override() or not (root / "conf" / key).is_dir():
        return
    if not isinstance(value := override.value(), str | list | dict):
        known = [*(["basic"] if key.startswith("hydra/") else []), *choices(root / "conf" / key)]
        raise InputError(f"{key}: {shown(value)} is not one of {', '.join(known)}")


def _checked(composed: DictConfig) -> Config:
    if missing := OmegaConf.missing_keys(composed):
        raise InputError(f"{min(missing)}: wants a value; add {min(missing)}=…")
    content = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    assert isinstance(content, dict)
    return checked(content)


def _explained(error: Exception) -> str:
    """One line for what Hydra or OmegaConf complain of."""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = sorted(option for option in error.options if option != "config")
        return f"{group}: {name!r} is not one of {', '.join(options)}{did_you_mean(name, options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r}: is no override KEY=VALUE; a value with special characters wants quotes of its own"
    cause = error.__cause__ or error
    # Hydra names the file in a line of its own, or says nothing at all of what OmegaConf cannot take.
    said = (str(error).strip() or str(cause)).splitlines()
    reason = " ".join(said[:2]) if said[0].endswith(":") else said[0]
    if found := re.fullmatch(r"Could not override '(.+)'\. No match in the defaults list\.", reason):
        return f"{found[1]}: is no group with a default; to add it, write +{found[1]}=…"
    if not (key := getattr(cause, "full_key", None)):
        return reason
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return f"{key}: is no key of the config{near_key(key)}"
    return f"{key}: {str(cause).strip().splitlines()[0]}"
