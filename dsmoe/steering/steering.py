"""A steering: which experts of which layers, how strongly, in which mode."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dsmoe.config import SteeringConfig
from dsmoe.discovery.profile import ExpertProfile
from dsmoe.discovery.rule import AS_CONFIGURED, Suggestion
from dsmoe.errors import InputError
from dsmoe.models.routers import RouterShape, family_of
from dsmoe.steering.selection import Experts, best, until_mass

SCHEMA = 1
MODES = ("logit", "score", "gate", "force")


@dataclass(frozen=True)
class Steering:
    """Experts to steer, as {layer: experts}; layers are the model's own indices, dense layers counted.

    `strength` makes α = 1 + strength > 0, the only scale in every mode; `modes/` says what is multiplied by it (DSMoE,
    arXiv 2604.05267, Eq. 11). `scale_back` concerns mode `gate`: whether weights keep their sum. `architecture`,
    `num_layers` and `num_experts`, where given, must match the model. `origin` says where the steering came from.

    Raises InputError for a strength, mode, layer or expert that cannot be.
    """

    experts: Mapping[int, tuple[int, ...]]
    strength: float
    mode: str = "logit"
    scale_back: bool = True
    model: str | None = None
    architecture: str | None = None
    num_layers: int | None = None
    num_experts: int | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"steering: mode {self.mode!r} is not one of {', '.join(MODES)}")
        if isinstance(self.strength, bool) or not isinstance(self.strength, int | float):
            raise InputError(f"steering: strength {self.strength!r} is not a number")
        if not (math.isfinite(self.strength) and self.strength > -1):
            raise InputError(f"steering: strength {self.strength} is not a finite number above -1 (α = 1 + strength)")
        for name, kind in (("model", str), ("architecture", str), ("num_layers", int), ("num_experts", int)):
            if not isinstance(value := getattr(self, name), kind | None) or isinstance(value, bool):
                raise InputError(f"steering: {name} {value!r} is not {kind.__name__}")
        if not isinstance(self.scale_back, bool):
            raise InputError(f"steering: scale_back {self.scale_back!r} is neither true nor false")
        if not isinstance(self.origin, Mapping):
            raise InputError(f"steering: origin {self.origin!r} is not a map")
        experts = {_index(layer, "layer"): self._checked(layer, chosen) for layer, chosen in self.experts.items()}
        if not any(experts.values()):
            raise InputError("steering: no experts are named")
        object.__setattr__(self, "experts", MappingProxyType({layer: experts[layer] for layer in sorted(experts)}))

    def _checked(self, layer: int, chosen: object) -> tuple[int, ...]:
        if not isinstance(chosen, list | tuple) or not chosen:
            raise InputError(f"steering: layer {layer}: experts are {chosen!r}, not a list of expert indices")
        experts = tuple(sorted(_index(expert, f"layer {layer}: expert") for expert in chosen))
        if len(set(experts)) < len(experts):
            raise InputError(f"steering: layer {layer}: an expert is named twice in {list(experts)}")
        if self.num_experts is not None and experts[-1] >= self.num_experts:
            raise InputError(f"steering: layer {layer}: expert {experts[-1]} of {self.num_experts} does not exist")
        if self.num_layers is not None and layer >= self.num_layers:
            raise InputError(f"steering: layer {layer} of {self.num_layers} does not exist")
        return experts

    @property
    def total_experts(self) -> int:
        """How many experts are steered, over all layers."""
        return sum(len(experts) for experts in self.experts.values())

    @classmethod
    def from_profile(
        cls,
        profile: ExpertProfile,
        num_experts: int | float,
        strength: float,
        mode: str = "logit",
        scale_back: bool = True,
        layers: tuple[int, int] | None = None,
    ) -> "Steering":
        """Steer the `num_experts` best-scored experts over all layers (Eq. 9).

        An integer is a count, a float below 1 a fraction of all experts. `layers` (first, last) leaves only the experts
        of those layers, both counted in. Raises InputError for more experts than there are, and for layers none of
        which has a router.
        """
        return cls._of(profile, best(profile, num_experts, layers), strength, mode, scale_back)

    @classmethod
    def suggested(
        cls, profile: ExpertProfile, config: SteeringConfig, suggestion: Suggestion = AS_CONFIGURED
    ) -> "Steering":
        """What a config makes of a profile; where the rule's own paper steers otherwise, as that does.

        Raises InputError as `from_profile` does.
        """
        strength = config.strength if suggestion.strength is None else suggestion.strength
        count = suggestion.num_experts or config.num_experts
        if isinstance(strength, str) or isinstance(count, str):
            raise InputError("steering: strength and num_experts are numbers here; auto is for what compares on dev")
        if suggestion.top_p is not None:
            experts = until_mass(profile, suggestion.top_p, config.layers)
        else:
            experts = best(profile, count, config.layers, suggestion.within_top_k)
        scale_back = config.scale_back if suggestion.scale_back is None else suggestion.scale_back
        return cls._of(profile, experts, strength, suggestion.mode or config.mode, scale_back)

    @classmethod
    def _of(cls, profile: ExpertProfile, experts: Experts, strength: float, mode: str, scale_back: bool) -> "Steering":
        return cls(
            experts,
            strength,
            mode,
            scale_back,
            model=profile.model,
            architecture=profile.architecture,
            num_layers=profile.num_layers,
            num_experts=profile.scores.shape[1],
            origin={"rule": profile.rule, "domain": profile.domain},
        )

    def random_control(self, seed: int) -> "Steering":
        """The same strength and mode on random experts: in each layer as many as this steers.

        Raises InputError where the steering does not say how many experts a layer has.
        """
        if self.num_experts is None:
            raise InputError("steering: num_experts is not known, so no random experts can be drawn")
        generator = np.random.default_rng(seed)
        experts = {
            layer: tuple(generator.choice(self.num_experts, size=len(chosen), replace=False).tolist())
            for layer, chosen in self.experts.items()
        }
        return replace(self, experts=experts, origin={"rule": "random", "seed": seed, "matches": dict(self.origin)})

    def check_fit(self, shape: RouterShape) -> None:
        """Raise InputError unless a model of this shape can be steered so."""
        check_mode(self.mode, shape.architecture)
        if self.architecture not in (None, shape.architecture):
            raise InputError(f"steering: made for {self.architecture}, but the model is {shape.architecture}")
        if self.num_layers not in (None, shape.num_layers):
            raise InputError(f"steering: made for {self.num_layers} layers, but the model has {shape.num_layers}")
        for layer, experts in self.experts.items():
            if layer not in shape.num_experts:
                raise InputError(
                    f"steering: layer {layer} has no router; those with one are {sorted(shape.num_experts)}"
                )
            width = shape.num_experts[layer]
            if self.num_experts not in (None, width):
                raise InputError(f"steering: made for {self.num_experts} experts a layer, but the model has {width}")
            if experts[-1] >= width:
                raise InputError(f"steering: layer {layer} has experts 0 to {width - 1}, not {experts[-1]}")
            most = shape.top_k if self.strength > 0 else width - shape.top_k
            if self.mode == "force" and self.strength != 0 and len(experts) > most:
                what = "activates" if self.strength > 0 else "deactivates"
                raise InputError(
                    f"steering: layer {layer}: mode force {what} {len(experts)} experts; with top-{shape.top_k} of "
                    f"{width} at most {most} can be"
                )

    def to_json(self) -> dict[str, Any]:
        """The steering file's content."""
        return {
            "schema": SCHEMA,
            "mode": self.mode,
            "strength": self.strength,
            "scale_back": self.scale_back,
            "experts": {str(layer): list(experts) for layer, experts in self.experts.items()},
            "model": self.model,
            "architecture": self.architecture,
            "num_layers": self.num_layers,
            "num_experts": self.num_experts,
            "origin": dict(self.origin),
        }

    def save(self, path: str | Path) -> None:
        """Write the steering as JSON."""
        Path(path).write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Steering":
        """Read a steering file. Raises InputError, naming the file, for anything that is not one."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{path}: is not JSON: {error}") from error
        try:
            return cls.from_json(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, content: Any) -> "Steering":
        """What `to_json` gave, back. Raises InputError for anything that is no steering."""
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise InputError(f"is not a steering file of schema {SCHEMA}")
        given = {key: value for key, value in content.items() if key != "schema"}
        known = {field.name for field in dataclass_fields(cls)}
        if unknown := sorted(set(given) - known):
            raise InputError(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
        if missing := sorted({"mode", "strength", "experts"} - set(given)):
            raise InputError(f"field {missing[0]!r} is missing")
        named = given.pop("experts")
        if not isinstance(named, dict):
            raise InputError("experts is not a map from layers to lists of experts")
        experts = {_index(layer, "layer"): chosen for layer, chosen in named.items()}
        if len(experts) < len(named):
            raise InputError(f"steering: a layer is named twice in {', '.join(named)}")
        return cls(experts, **given)


def check_mode(mode: str, architecture: str) -> None:
    """Raise InputError where the mode means nothing for the routers of an architecture."""
    if mode == "score" and family_of(architecture).chooses_on_logits:
        raise InputError(
            f"steering.mode: score means nothing for {architecture}, which chooses on its logits, before any softmax "
            "or sigmoid; use logit"
        )


def _index(value: object, what: str) -> int:
    """`value` as an index of a layer or expert; JSON's keys are strings."""
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()):
        raise InputError(f"steering: {what} {value!r} is not an index from 0")
    return int(text)
