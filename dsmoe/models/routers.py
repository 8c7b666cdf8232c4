"""Where a model keeps its routers, and what a router says."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from dsmoe import plugins
from dsmoe.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES = "dsmoe.models.families"
TIE = 1e-5


@dataclass(frozen=True, slots=True)
class Router:
    """The router of one decoder layer.

    Its module takes hidden states [..., hidden] and returns (router logits [tokens, experts], gate weights
    [tokens, top_k], indices of the chosen experts [tokens, top_k]).
    """

    layer: int
    module: nn.Module
    num_experts: int
    top_k: int


@dataclass(frozen=True, slots=True)
class RouterShape:
    """How a model routes: its architecture, its decoder layers and, for each that has a router, its experts."""

    architecture: str
    num_layers: int
    num_experts: Mapping[int, int]


def known_families() -> list[str]:
    """The model types whose routers we know."""
    return plugins.names(FAMILIES)


def check_family(model_type: str, where: str) -> None:
    """Raise InputError unless the routers of `model_type` are known."""
    if model_type not in known_families():
        raise InputError(
            f"{where}: the routers of model type {model_type!r} are not known, so it can be neither analysed nor "
            f"steered; known are {', '.join(known_families())}"
        )


def find_routers(model: "PreTrainedModel") -> list[Router]:
    """The routers of a transformers causal language model, by layer; dense layers have none.

    Raises InputError where the family is unknown or no layer has a router.
    """
    config = model.config
    check_family(config.model_type, type(model).__name__)
    path = operator.attrgetter(plugins.load(FAMILIES, config.model_type, "model").ROUTER)
    routers = []
    for layer, block in enumerate(model.get_decoder().layers):
        try:
            module = path(block)
        except AttributeError:
            continue
        routers.append(Router(layer, module, module.num_experts, module.top_k))
    if not routers:
        raise InputError(f"{type(model).__name__} has no layer with a router: it is no Mixture-of-Experts model")
    return routers


def shape_of(model: "PreTrainedModel") -> RouterShape:
    """The shape of a model's routing; weights may be on the meta device."""
    experts = {router.layer: router.num_experts for router in find_routers(model)}
    return RouterShape(model.config.model_type, len(model.get_decoder().layers), experts)


def rounding(logits: torch.Tensor) -> torch.Tensor:
    """The difference of router logits [tokens, experts] up to which rounding may turn a token's choice [tokens].

    A difference of logits is a relative one of probabilities, which is what most routers compare: hence never below
    1e-5, however small the logits are.
    """
    return TIE * logits.float().abs().amax(dim=-1).clamp(min=1)


def near_tie(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Which tokens [tokens] have a last chosen expert that leads the first one left out by no more than rounding."""
    if top_k >= logits.shape[-1]:
        return torch.zeros(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    highest = logits.float().topk(top_k + 1, dim=-1).values
    return highest[..., -2] - highest[..., -1] <= rounding(logits)
