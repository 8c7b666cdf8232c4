"""Where a model keeps its routers, and what a router says."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from dsmoe import plugins
from dsmoe.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES = "dsmoe.models.families"
TIE = 1e-5


class RouterOutput(NamedTuple):
    """What a router said: its logits [tokens, experts], then the weights and indices of its choice [tokens, top_k]."""

    logits: torch.Tensor
    weights: torch.Tensor
    chosen: torch.Tensor


Factors = torch.Tensor | float
"""What a softmax or sigmoid is multiplied by: [experts], or 1.0."""


def _highest_logits(router: Any, logits: torch.Tensor, factors: Factors) -> torch.Tensor:
    return logits + factors.log() if isinstance(factors, torch.Tensor) else logits


@dataclass(frozen=True, slots=True)
class Family:
    """How the routers of a model family work; one of these stands in each file of `families/`.

    `path` leads from a decoder layer to its router, whose one call of `F.linear` makes the logits. `choice_scores` is
    the published rule by which the top k are chosen: from a router module, its logits, and factors [experts] on its
    softmax or sigmoid, to scores [tokens, experts], lowest for experts that cannot be chosen. `chooses_on_logits` is
    true where there is no softmax or sigmoid before the choice. `read` turns what the router's forward returns into a
    RouterOutput, `write` puts other weights into it. `bias` leads from a decoder layer to a bias of the router's own,
    a tensor [experts] in checkpoints that is added to the logits before the choice; None where there is none.
    """

    path: str
    choice_scores: Callable[[Any, torch.Tensor, Factors], torch.Tensor] = _highest_logits
    chooses_on_logits: bool = False
    read: Callable[[Any, Any], RouterOutput] = lambda router, output: RouterOutput(*output)
    write: Callable[[Any, Any, torch.Tensor], Any] = lambda router, output, weights: (output[0], weights, output[2])
    bias: str | None = None


@dataclass(frozen=True, slots=True)
class Router:
    """The router of one decoder layer."""

    layer: int
    module: nn.Module
    num_experts: int
    top_k: int
    family: Family

    @property
    def weight(self) -> torch.Tensor:
        """What its one `F.linear` multiplies by, float32 [experts, hidden]."""
        return self.module.get_parameter("weight").detach().float()

    @property
    def bias(self) -> torch.Tensor | None:
        """What its one `F.linear` adds, float32 [experts], None where the family adds nothing."""
        return None if self.family.bias is None else self.module.get_parameter("bias").detach().float()

    def read(self, output: Any) -> RouterOutput:
        """What the module's forward returned, in one form for all families."""
        return self.family.read(self.module, output)

    def write(self, output: Any, weights: torch.Tensor) -> Any:
        """What the module's forward returned, with other weights [tokens, top_k] for the chosen experts."""
        return self.family.write(self.module, output, weights)

    def choice_scores(self, logits: torch.Tensor, factors: Factors = 1.0) -> torch.Tensor:
        """The scores [tokens, experts] of which the router chooses the highest; `factors` [experts] scale them."""
        return self.family.choice_scores(self.module, logits, factors)


@dataclass(frozen=True, slots=True)
class RouterShape:
    """How a model routes: its architecture, its decoder layers, its experts a token and, by layer, its experts."""

    architecture: str
    num_layers: int
    top_k: int
    num_experts: Mapping[int, int]
    """Of each layer that has a router."""


def family_of(model_type: str) -> Family:
    """How routers of this model type work. Raises InputError where that is not known."""
    family: Family = plugins.load(FAMILIES, model_type, "model").FAMILY
    return family


def known_families() -> tuple[str, ...]:
    """The model types whose routers we know."""
    return plugins.names(FAMILIES)


def check_family(model_type: str, where: str) -> None:
    """Raise InputError unless the routers of `model_type` are known."""
    if model_type not in known_families():
        raise InputError(
            f"{where}: the routers of model type {model_type!r} are not known, so it can be neither analysed nor "
            f"steered; known are {', '.join(known_families())}"
        )


def decoder_layers(model: "PreTrainedModel") -> nn.ModuleList:
    """The decoder layers of a causal language model."""
    decoder = model.get_decoder()
    # Llama-4 calls the whole causal language model its decoder.
    layers: nn.ModuleList = getattr(decoder, "model", decoder).layers
    return layers


def find_routers(model: "PreTrainedModel") -> list[Router]:
    """The routers of a transformers causal language model, by layer; dense layers have none.

    Raises InputError where the family is unknown or no layer has a router.
    """
    config = model.config
    check_family(config.model_type, type(model).__name__)
    family = family_of(config.model_type)
    at = operator.attrgetter(family.path)
    routers = []
    for layer, block in enumerate(decoder_layers(model)):
        try:
            module = at(block)
        except AttributeError:
            continue
        if not next(module.parameters()).is_floating_point():
            raise InputError(f"{type(model).__name__}: the router of layer {layer} is quantised; it must be left alone")
        if not (hasattr(module, "num_experts") and hasattr(module, "top_k")):
            raise InputError(
                f"{type(model).__name__}: the router of layer {layer} is none of transformers' own, and no other is "
                "known; set model.trust_remote_code=false"
            )
        routers.append(Router(layer, module, module.num_experts, module.top_k, family))
    if not routers:
        raise InputError(f"{type(model).__name__} has no layer with a router: it is no Mixture-of-Experts model")
    return routers


def shape_of(model: "PreTrainedModel") -> RouterShape:
    """The shape of a model's routing; weights may be on the meta device."""
    routers = find_routers(model)
    experts = {router.layer: router.num_experts for router in routers}
    return RouterShape(model.config.model_type, len(decoder_layers(model)), routers[0].top_k, experts)


def rounding(scores: torch.Tensor) -> torch.Tensor:
    """The difference of choice scores [tokens, experts] up to which rounding may turn a token's choice [tokens].

    A difference of logits is a relative one of probabilities, which is what most routers compare: hence never below
    1e-5, however small the scores are.
    """
    finite = scores.float().abs().nan_to_num(posinf=0.0)
    return TIE * finite.amax(dim=-1).clamp(min=1)


def follows(scores_TE: torch.Tensor, chosen_TK: torch.Tensor) -> torch.Tensor:
    """For which tokens [tokens] no expert left out has a higher score than one that was chosen, but for rounding."""
    lowest_chosen = scores_TE.gather(1, chosen_TK).amin(dim=1)
    highest_left_out = scores_TE.scatter(1, chosen_TK, -torch.inf).amax(dim=1)
    return lowest_chosen >= highest_left_out - rounding(scores_TE)


def near_tie(scores: torch.Tensor, top_k: int) -> torch.Tensor:
    """Which tokens [tokens] have a last chosen expert that leads the first one left out by no more than rounding."""
    if top_k >= scores.shape[-1]:
        return torch.zeros(scores.shape[:-1], dtype=torch.bool, device=scores.device)
    highest = scores.float().topk(top_k + 1, dim=-1).values
    return highest[..., -2] - highest[..., -1] <= rounding(scores)
