"""The expert profile: every expert's routing counts and scores for a domain."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dsmoe.discovery.counts import RoutingCounts
from dsmoe.discovery.rule import Evidence, scores
from dsmoe.errors import InputError

SCHEMA = 2
FACTS = {
    "layers": list,
    "rule": str,
    "domain": str,
    "model": str,
    "architecture": str,
    "num_layers": int,
    "top_k": int,
    "report": dict,
    "settings": dict,
}
"""What a profile says beside its tensors, and of which type."""
COUNTS = ("important", "unimportant", "special", "gate_weights")
MARKER = "marker:"
"""What stands before a marker's text in the name of its tensor."""


@dataclass(frozen=True)
class DiscoveryReport:
    """What discovery saw: how much text, where the threshold lay, how sharp its decisions were."""

    records: int
    tokens: int
    """Real tokens: neither padding, nor special, nor white space."""
    important_tokens: int
    threshold: float
    """The quantile of the pooled saliencies, above which a token is important."""
    tokens_near_threshold: int
    """Tokens within a relative 1e-5 of the threshold: rounding may class them otherwise."""
    choices_near_tie: int
    """Choices whose last expert in led the first one out by no more than rounding, which may turn them."""

    @property
    def important_share(self) -> float:
        """|S| / (|S| + |C|)."""
        return self.important_tokens / self.tokens

    def to_json(self) -> dict[str, float]:
        """All of it, the share too."""
        return {**asdict(self), "important_share": self.important_share}


@dataclass(frozen=True, eq=False)
class ExpertProfile:
    """Scores [layers, experts] of a model's experts for `domain` by `rule`, with the counts that they come from.

    `layers` says which layer of the model each row is: only layers with a router have one.
    """

    scores: torch.Tensor
    counts: RoutingCounts
    layers: tuple[int, ...]
    rule: str
    domain: str
    model: str
    architecture: str
    num_layers: int
    top_k: int
    report: DiscoveryReport
    settings: dict[str, Any] = field(default_factory=dict)

    def scored(
        self,
        rule: str,
        *,
        contrast: "ExpertProfile | None" = None,
        markers: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> "ExpertProfile":
        """The same counts scored by a rule, against a contrast where the rule wants one, drawn with `seed` if it draws.

        `markers` maps texts that were counted in discovery to coefficients; by default all of them, each with 1. Raises
        InputError where the rule wants what is not there, and for a contrast of another model.
        """
        if contrast is not None and (contrast.layers, contrast.scores.shape) != (self.layers, self.scores.shape):
            raise InputError(f"discovery: the contrast {contrast.domain} is of a model with other routers")
        coefficients = dict.fromkeys(self.counts.markers, 1.0) if markers is None else dict(markers)
        evidence = Evidence(self.counts, self.top_k, contrast.counts if contrast else None, coefficients, seed)
        settings = {
            **self.settings,
            "seed": seed,
            "contrast": contrast.domain if contrast else None,
            "markers": coefficients,
        }
        return replace(self, rule=rule, scores=scores(rule, evidence), settings=settings)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; what is not a tensor stands in its metadata as JSON."""
        facts = {
            "schema": SCHEMA,
            "layers": self.layers,
            "rule": self.rule,
            "domain": self.domain,
            "model": self.model,
            "architecture": self.architecture,
            "num_layers": self.num_layers,
            "top_k": self.top_k,
            "report": asdict(self.report),
            "settings": self.settings,
        }
        tensors = {"scores": self.scores, **{name: getattr(self.counts, name) for name in COUNTS}}
        tensors |= {f"{MARKER}{text}": counts for text, counts in self.counts.markers.items()}
        save_file(
            {name: tensor.clone() for name, tensor in tensors.items()},
            path,
            metadata={"dsmoe_profile": json.dumps(facts, sort_keys=True)},
        )

    @classmethod
    def load(cls, path: str | Path) -> "ExpertProfile":
        """Read an expert profile. Raises InputError, naming the file, for anything that is not one."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read as a safetensors file: {error}") from error
        try:
            facts = json.loads(metadata.get("dsmoe_profile", "{}"))
        except ValueError as error:
            raise InputError(f"{path}: its metadata dsmoe_profile is not JSON: {error}") from error
        if not isinstance(facts, dict) or facts.pop("schema", None) != SCHEMA:
            raise InputError(f"{path}: is not an expert profile of schema {SCHEMA}")
        if missing := {"scores", *COUNTS} - set(tensors):
            raise InputError(f"{path}: tensor {min(missing)!r} is missing")
        _check_facts(facts, path)
        layers = tuple(facts.pop("layers"))
        report = DiscoveryReport(**facts.pop("report"))
        markers = {name.removeprefix(MARKER): tensors[name] for name in tensors if name.startswith(MARKER)}
        counts = RoutingCounts(**{name: tensors[name] for name in COUNTS}, markers=markers)
        shapes = {tuple(tensor.shape) for tensor in tensors.values()}
        if len(shapes) != 1 or tensors["scores"].ndim != 2 or tensors["scores"].shape[0] != len(layers):
            raise InputError(f"{path}: its tensors are not all of shape [{len(layers)} layers, experts]")
        if not tensors["scores"].isfinite().all():
            raise InputError(f"{path}: some scores are not finite")
        return cls(tensors["scores"], counts, layers, report=report, **facts)


def _check_facts(facts: dict[str, Any], path: str | Path) -> None:
    """Raise InputError unless a profile's metadata has the fields of a profile, each of its type."""
    for name, kind in FACTS.items():
        if not isinstance(facts.get(name), kind):
            raise InputError(f"{path}: {name} is {facts.get(name)!r}, not {kind.__name__}")
    if unknown := sorted(set(facts) - set(FACTS)):
        raise InputError(f"{path}: unknown field {unknown[0]!r}; known are {', '.join(sorted(FACTS))}")
    layers, report = facts["layers"], facts["report"]
    if not all(isinstance(layer, int) and 0 <= layer < facts["num_layers"] for layer in layers):
        raise InputError(f"{path}: layers {layers} are not all of 0 to {facts['num_layers'] - 1}")
    if len(set(layers)) < len(layers):
        raise InputError(f"{path}: a layer is named twice in {layers}")
    wanted = {one.name for one in fields(DiscoveryReport)}
    if set(report) != wanted or not all(isinstance(value, int | float) for value in report.values()):
        raise InputError(f"{path}: report does not hold one number for each of {', '.join(sorted(wanted))}")
