"""An export: a folder that holds a steering and names its base model, or a checkpoint that is steered by itself.

The first has `steering.json` and `base.json`, and `load_steered` steers that base. The second has the steering in its
router biases: its `steering.baked.json` and `base.json` are for the record, and nothing is steered on loading.
"""

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from dsmoe.config import ModelConfig
from dsmoe.errors import InputError
from dsmoe.models.checkpoint import files, model_config
from dsmoe.models.load import fresh_model
from dsmoe.models.routers import family_of
from dsmoe.plugins import did_you_mean
from dsmoe.steering.baked import bake
from dsmoe.steering.base import Base
from dsmoe.steering.steer import steer
from dsmoe.steering.steering import Steering

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEERING, BAKED, BASE = "steering.json", "steering.baked.json", "base.json"
SETTINGS = (
    "dtype",
    "device",
    "device_map",
    "threads",
    "attn_implementation",
    "experts_implementation",
    "trust_remote_code",
)


@dataclass(frozen=True)
class Export:
    """An export that is there: where, of which steering and base, and whether the steering is in its weights."""

    folder: Path
    steering: Steering
    base: Base
    is_baked: bool

    @classmethod
    def load(cls, folder: str | Path) -> "Export":
        """Read an export. Raises InputError for a folder that is none, or whose base is gone or has changed."""
        folder = Path(folder)
        is_baked = (folder / BAKED).exists()
        if not (folder / BASE).exists() or not (is_baked or (folder / STEERING).exists()):
            raise InputError(f"{folder}: is no export: it lacks {BASE}, or {STEERING} and {BAKED}")
        steering = Steering.load(folder / (BAKED if is_baked else STEERING))
        base = Base.load(folder / BASE)
        if not is_baked:
            base.check(str(folder))
        return cls(folder, steering, base, is_baked)

    @property
    def checkpoint(self) -> str:
        """The folder or Hub id whose weights are loaded."""
        return str(self.folder) if self.is_baked else self.base.path

    @property
    def revision(self) -> str | None:
        """The commit on the Hub, None for a folder."""
        return None if self.is_baked else self.base.commit

    def check_trust(self, trust_remote_code: bool) -> None:
        """Raise InputError where the base runs Python code of its own, which an export cannot allow for the user."""
        if self.base.trust_remote_code and not trust_remote_code:
            raise InputError(f"{self.folder}: its base runs Python code of its own; allow it by trust_remote_code=True")


def is_export(folder: str | Path) -> bool:
    """Whether a folder is an export, whole or not; other checkpoints have no such files."""
    return any((Path(folder) / name).exists() for name in (BASE, BAKED))


def write_export(folder: Path, steering: Steering, model: ModelConfig) -> None:
    """Write an export of `steering` for the model into `folder`, which is there and empty.

    A steered checkpoint where the routers add a bias of their own to the logits and the mode is `logit`, else the
    steering and what its base is. Raises InputError for a model that cannot be had.
    """
    base = Base.of(model)
    bias = family_of(model_config(model).model_type).bias
    is_baked = bias is not None and steering.mode == "logit"
    if bias is not None and is_baked:
        bake(files(replace(model, revision=base.commit)), bias, steering, folder)
    steering.save(folder / (BAKED if is_baked else STEERING))
    base.save(folder / BASE)


def load_steered(folder: str | Path, **settings: Any) -> tuple["PreTrainedModel", Any]:
    """The model of an export, steered for good, and its tokenizer.

    `settings` are keys of the config's group `model`: dtype, device, threads, attn_implementation,
    experts_implementation, trust_remote_code. The steering is proven on the model, as by `steer`; that of a steered
    checkpoint is in its weights. Raises InputError for a folder that is no export, or whose base is gone or has
    changed, SteeringError where the proof fails.
    """
    export = Export.load(folder)
    config = _config(export, settings)
    export.check_trust(config.trust_remote_code)
    loaded = fresh_model(export.checkpoint, config)
    if not export.is_baked:
        steer_for_good(loaded.model, export.steering)
    return loaded.model, loaded.tokenizer


def steer_for_good(model: "PreTrainedModel", steering: Steering) -> None:
    """Steer a model for as long as it lives. Raises as `steer` does; a force that is undone ends the forward in it."""
    context = ExitStack()
    watch = context.enter_context(steer(model, steering))
    # A context that nobody holds would end, and the steering with it.
    model.steered_for_good = context
    if watch.may_be_undone:
        model.register_forward_pre_hook(lambda *_: watch.forget())
        model.register_forward_hook(lambda *_: watch.check())


def _config(export: Export, settings: dict[str, Any]) -> ModelConfig:
    for name in settings:
        if name not in SETTINGS:
            raise InputError(f"{name}: is not one of {', '.join(SETTINGS)}{did_you_mean(name, list(SETTINGS))}")
    content = {
        **dict.fromkeys(("threads", "device_map", "attn_implementation", "experts_implementation", "pretrain")),
        "name": export.folder.name or ".",
        "path": export.checkpoint,
        "revision": export.revision,
        "dtype": export.base.dtype,
        "device": "auto",
        "trust_remote_code": False,
        **settings,
    }
    try:
        return TypeAdapter(ModelConfig).validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(f"{fault['loc'][0]}: {fault['input']!r} is not allowed: {fault['msg']}") from error
