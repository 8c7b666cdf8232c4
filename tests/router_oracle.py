"""Routers of every family written out by hand, token by token, in float64: what steered models are held to."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from conftest import random_model
from transformers import PreTrainedModel

from dsmoe import InputError, Steering, steer
from dsmoe.errors import SteeringError
from dsmoe.models.routers import Router, find_routers
from dsmoe.results import RoutingChange

Choice = dict[int, float]
"""A token's chosen experts, each with its weight."""


def best(scores: torch.Tensor, count: int) -> list[int]:
    return [int(index) for index in scores.argsort(descending=True)[:count]]


def softmax_then_top_k(router: Any, config: Any, z: torch.Tensor, factors: torch.Tensor) -> Choice:
    """Qwen-MoE, Qwen3-Next, OLMoE, Mixtral, DeepSeek-MoE."""
    p = z.exp() / z.exp().sum() * factors
    chosen = best(p, router.top_k)
    total = sum(p[e] for e in chosen) if getattr(config, "norm_topk_prob", config.model_type == "mixtral") else 1.0
    return {e: float(p[e] / total) for e in chosen}


def top_k_then_softmax(router: Any, config: Any, z: torch.Tensor, factors: torch.Tensor) -> Choice:
    """gpt-oss, Granite-MoE."""
    chosen = best(z, router.top_k)
    total = sum(z[e].exp() for e in chosen)
    return {e: float(z[e].exp() / total) for e in chosen}


def sparsemixer(router: Any, config: Any, z: torch.Tensor, factors: torch.Tensor) -> Choice:
    """Phi-MoE (arXiv 2409.12136): each pick is weighed among the experts within a relative 2ε of it."""
    choice: Choice = {}
    for _ in range(2):
        left = [e for e in range(len(z)) if e not in choice]
        top = max(left, key=lambda e: float(z[e]))
        near = [e for e in left if (z[top] - z[e]) / max(abs(z[e]), z[top]) <= 2 * config.router_jitter_noise]
        choice[top] = float(z[top].exp() / sum(z[e].exp() for e in near))
    return choice


def groups_of(scores: torch.Tensor, config: Any, worth: Callable[[list[float]], float]) -> set[int]:
    """The experts of the best groups."""
    size = len(scores) // config.n_group
    groups = [list(range(at, at + size)) for at in range(0, len(scores), size)]
    kept = sorted(groups, key=lambda group: -worth(sorted((float(scores[e]) for e in group), reverse=True)))
    return {e for group in kept[: config.topk_group] for e in group}


def deepseek_v2(router: Any, config: Any, z: torch.Tensor, factors: torch.Tensor) -> Choice:
    p = z.exp() / z.exp().sum() * factors
    allowed = set(range(len(z)))
    if config.topk_method == "group_limited_greedy":
        allowed = groups_of(p, config, lambda scores: scores[0])
    chosen = [e for e in best(p, len(p)) if e in allowed][: router.top_k]
    return {e: float(p[e] * config.routed_scaling_factor) for e in chosen}


def deepseek_v3(router: Any, config: Any, z: torch.Tensor, factors: torch.Tensor) -> Choice:
    """DeepSeek-V3, GLM-4.5."""
    sigmoid = factors / (1 + (-z).exp())
    corrected = sigmoid + router.e_score_correction_bias.double().cpu()
    allowed = groups_of(corrected, config, lambda scores: scores[0] + scores[1])
    chosen = [e for e in best(corrected, len(corrected)) if e in allowed][: router.top_k]
    total = sum(sigmoid[e] for e in chosen)
    return {e: float(sigmoid[e] / total * config.routed_scaling_factor) for e in chosen}


def ernie4_5(router: Any, config: Any, z: torch.Tensor, factors: torch.Tensor) -> Choice:
    p = z.exp() / z.exp().sum() * factors
    chosen = best(p + router.moe_statics.e_score_correction_bias.double().cpu().squeeze(0), router.top_k)
    total = max(float(sum(p[e] for e in chosen)), config.moe_norm_min)
    return {e: float(p[e]) / total for e in chosen}


def llama4(router: Any, config: Any, z: torch.Tensor, factors: torch.Tensor) -> Choice:
    return {e: float(1 / (1 + (-z[e]).exp())) for e in best(z, router.top_k)}


RULES: dict[str, Callable[[Any, Any, torch.Tensor, torch.Tensor], Choice]] = {
    "deepseek": softmax_then_top_k,
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "ernie4_5_moe": ernie4_5,
    "glm4_moe": deepseek_v3,
    "gpt_oss": top_k_then_softmax,
    "granitemoe": top_k_then_softmax,
    "llama4_text": llama4,
    "mixtral": softmax_then_top_k,
    "olmoe": softmax_then_top_k,
    "phimoe": sparsemixer,
    "qwen2_moe": softmax_then_top_k,
    "qwen3_moe": softmax_then_top_k,
    "qwen3_next": softmax_then_top_k,
}


@contextmanager
def by_hand(model: PreTrainedModel, steering: Steering) -> Iterator[list[bool]]:
    """The model with every router's forward replaced by the rule, its logits steered by hand.

    The list gets one entry for every token of a steered layer: whether the unsteered rule would have chosen otherwise.
    """
    changed: list[bool] = []

    def forward(router: Router) -> Callable[[torch.Tensor], Any]:
        experts = list(steering.experts.get(router.layer, ()))
        alpha = torch.ones(router.num_experts, dtype=torch.float64)
        alpha[experts] += steering.strength
        module: Any = router.module
        rule = RULES[model.config.model_type]

        def choose(z: torch.Tensor) -> Choice:
            choice = steered_choice(z)
            if experts:
                changed.append(set(choice) != set(rule(module, model.config, z, torch.ones_like(alpha))))
            return choice

        def steered_choice(z: torch.Tensor) -> Choice:
            if steering.mode == "logit":
                z = z + alpha.log()
            if steering.mode == "force" and experts:
                s = z - z.exp().sum().log()
                z = s.clone()
                edge = float(s.max() if steering.strength > 0 else s.min())
                z[experts] = edge + math.copysign(max(1.0, abs(edge)) / 64, steering.strength)
            factors = alpha if steering.mode == "score" else torch.ones_like(alpha)
            choice = rule(module, model.config, z, factors)
            if steering.mode != "gate":
                return choice
            gated = {e: weight * float(alpha[e]) for e, weight in choice.items()}
            back = sum(choice.values()) / sum(gated.values()) if steering.scale_back else 1.0
            return {e: weight * back for e, weight in gated.items()}

        def routed(hidden: torch.Tensor) -> Any:
            flat = hidden.reshape(-1, hidden.shape[-1]).double().cpu()
            bias = getattr(module, "bias", None)
            z = flat @ module.weight.double().cpu().T + (0 if bias is None else bias.double().cpu())
            choices = [choose(row) for row in z]
            chosen = torch.tensor([list(choice) for choice in choices])
            weights = torch.tensor([list(choice.values()) for choice in choices]).float()
            returned: tuple[torch.Tensor, ...] = (z.float(), weights, chosen)
            if model.config.model_type == "llama4_text":
                returned = (torch.zeros_like(z).float().scatter(1, chosen, weights), z.float())
            return tuple(tensor.to(hidden.device) for tensor in returned)

        return routed

    routers = find_routers(model)
    for router in routers:
        router.module.forward = forward(router)
    try:
        yield changed
    finally:
        for router in routers:
            del router.module.forward


def outputs(model: PreTrainedModel, seed: int) -> list[torch.Tensor]:
    """Logits of prompts of unequal length, padded left and right, and of generation with a cache."""
    ids = torch.randint(3, 190, (2, 12), generator=torch.Generator().manual_seed(seed)).to(model.device)
    masks = [torch.ones_like(ids), torch.ones_like(ids), torch.ones_like(ids)]
    masks[1][0, :5] = 0
    masks[2][1, 8:] = 0
    with torch.no_grad():
        found = [model(ids, attention_mask=mask).logits[mask.bool()] for mask in masks]
        generated = model.generate(
            ids, attention_mask=masks[0], max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    return [*found, torch.stack(generated.logits)]


CASES = {
    "logit": [(-0.9, True), (0.5, True), (4.0, True), (63.0, True)],
    "score": [(-0.9, True), (4.0, True)],
    "gate": [(-0.5, True), (4.0, True), (63.0, False)],
    "force": [(-0.5, True), (1.0, True)],
}
"""Every mode with strengths to try, and whether weights are scaled back."""


def robust_choices(model: PreTrainedModel, router: Router, z: torch.Tensor) -> list[set[int] | None]:
    """Each token's choice by the rule, None where rounding of bf16 may turn it: z [tokens, experts] in float64.

    The worst that rounding can do is to lower what was chosen and to raise the rest.
    """
    rule, ones = RULES[model.config.model_type], torch.ones(router.num_experts, dtype=torch.float64)
    found: list[set[int] | None] = []
    for row in z:
        chosen = set(rule(router.module, model.config, row, ones))
        doubt = torch.full_like(row, float(row.abs().max()) * 2**-7)
        doubt[list(chosen)] *= -1
        found.append(chosen if set(rule(router.module, model.config, row + doubt, ones)) == chosen else None)
    return found


def outcome(family: str, mode: str, strength: float, scale_back: bool, seed: int) -> str:
    """`equal`, `refused` or `undone`; raises AssertionError where the steered model differs from the oracle."""
    model = random_model(family, seed)
    first, *_, last = find_routers(model)
    experts = {first.layer: (1, 5), last.layer: (0, 3) if mode == "force" else (0, 3, 6)}
    steering = Steering(experts, strength, mode, scale_back)
    base = outputs(model, seed)
    try:
        with steer(model, steering) as watch:
            steered = outputs(model, seed)
            change = watch.take()
    except InputError as error:
        if "chooses on its logits" in str(error):
            return "refused"
        raise
    except SteeringError as error:
        if "undone by a correction bias or a group limit" in str(error):
            return "undone"
        raise
    with by_hand(model, steering) as changed:
        expected = outputs(model, seed)
    for ours, oracle in zip(steered, expected, strict=True):
        assert torch.allclose(ours, oracle, rtol=0, atol=1e-4)
    assert change == RoutingChange(choices=len(changed), changed=sum(changed))
    assert (steered[0] - base[0]).abs().max() > 1e-4
    return "equal"
