"""A scoring rule: from evidence about a domain's routing to scores of experts, and how its paper steers by them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from dsmoe import plugins
from dsmoe.discovery.counts import RoutingCounts
from dsmoe.errors import InputError

RULES = "dsmoe.discovery.rules"


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a rule may score by.

    `counts` are the domain's, `contrast` those of what it is held against, where a rule wants that. `markers` maps a
    marker's text to its coefficient. `seed` is for rules that draw.
    """

    counts: RoutingCounts
    top_k: int
    contrast: RoutingCounts | None = None
    markers: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Suggestion:
    """How a rule's own paper steers by its scores; None leaves it to whoever steers.

    `top_p` takes in each layer the best experts until their scores, which are shares there, sum up to it.
    `within_top_k` takes no more experts of a layer than a token is routed to.
    """

    num_experts: int | None = None
    top_p: float | None = None
    within_top_k: bool = False
    mode: str | None = None
    strength: float | None = None
    scale_back: bool | None = None


AS_CONFIGURED = Suggestion()
"""Nothing is suggested."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One of these, named RULE, stands in each file of `rules/`.

    `score` returns float64 scores [layers, experts], higher for experts that belong more to the domain. `contrasts`
    says that it wants the routing of other domains too, `marks` that it wants markers.
    """

    score: Callable[[Evidence], torch.Tensor]
    suggestion: Suggestion = AS_CONFIGURED
    contrasts: bool = False
    marks: bool = False


def rule_of(name: str, key: str = "discovery.rule") -> Rule:
    """The rule of a name; `key` is the config key that named it. Raises InputError where there is none."""
    rule: Rule = plugins.load(RULES, name, key).RULE
    return rule


def scores(name: str, evidence: Evidence) -> torch.Tensor:
    """Scores [layers, experts] by a rule. Raises InputError where the evidence is not what the rule wants."""
    rule = rule_of(name)
    if rule.contrasts and evidence.contrast is None:
        raise InputError(f"discovery.rule: {name} holds the domain against others: it wants a profile of a contrast")
    if rule.marks:
        if not evidence.markers:
            raise InputError(f"discovery.markers: {name} scores by markers, and there are none")
        if unseen := [text for text in evidence.markers if not _seen(evidence.counts, text)]:
            raise InputError(f"discovery.markers: {unseen[0]!r} does not occur in what experts are discovered from")
    return rule.score(evidence)


def _seen(counts: RoutingCounts, text: str) -> bool:
    return text in counts.markers and bool(counts.markers[text].any())
