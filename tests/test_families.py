"""Steered models of every family against routers written out by hand, token by token, in float64."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from conftest import CONFIGS, random_model
from transformers import PreTrainedModel

from dsmoe import Steering, steer
from dsmoe.models.routers import Router, find_routers, known_families

Choice = dict[int, float]
"""A token's chosen experts, each with its weight."""


def best(scores: torch.Tensor, count: int) -> list[int]:
    return [int(index) for index in scores.argsort(descending=True)[:count]]


def softmax_then_top_k(router: Any, config: Any, z: torch.Tensor) -> Choice:
    """Qwen-MoE, Qwen3-Next, OLMoE, Mixtral."""
    p = z.exp() / z.exp().sum()
    chosen = best(p, router.top_k)
    total = sum(p[e] for e in chosen) if getattr(config, "norm_topk_prob", config.model_type == "mixtral") else 1.0
    return {e: float(p[e] / total) for e in chosen}


def top_k_then_softmax(router: Any, config: Any, z: torch.Tensor) -> Choice:
    """gpt-oss, Granite-MoE."""
    chosen = best(z, router.top_k)
    total = sum(z[e].exp() for e in chosen)
    return {e: float(z[e].exp() / total) for e in chosen}


def sparsemixer(router: Any, config: Any, z: torch.Tensor) -> Choice:
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


def deepseek_v2(router: Any, config: Any, z: torch.Tensor) -> Choice:
    p = z.exp() / z.exp().sum()
    allowed = set(range(len(z)))
    if config.topk_method == "group_limited_greedy":
        allowed = groups_of(p, config, lambda scores: scores[0])
    chosen = [e for e in best(p, len(p)) if e in allowed][: router.top_k]
    return {e: float(p[e] * config.routed_scaling_factor) for e in chosen}


def deepseek_v3(router: Any, config: Any, z: torch.Tensor) -> Choice:
    """DeepSeek-V3, GLM-4.5."""
    sigmoid = 1 / (1 + (-z).exp())
    corrected = sigmoid + router.e_score_correction_bias.double()
    allowed = groups_of(corrected, config, lambda scores: scores[0] + scores[1])
    chosen = [e for e in best(corrected, len(corrected)) if e in allowed][: router.top_k]
    total = sum(sigmoid[e] for e in chosen)
    return {e: float(sigmoid[e] / total * config.routed_scaling_factor) for e in chosen}


def ernie4_5(router: Any, config: Any, z: torch.Tensor) -> Choice:
    p = z.exp() / z.exp().sum()
    chosen = best(p + router.moe_statics.e_score_correction_bias.double().squeeze(0), router.top_k)
    total = max(float(sum(p[e] for e in chosen)), config.moe_norm_min)
    return {e: float(p[e]) / total for e in chosen}


def llama4(router: Any, config: Any, z: torch.Tensor) -> Choice:
    return {e: float(1 / (1 + (-z[e]).exp())) for e in best(z, router.top_k)}


RULES: dict[str, Callable[[Any, Any, torch.Tensor], Choice]] = {
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
def by_hand(model: PreTrainedModel, steering: Steering) -> Iterator[None]:
    """The model with every router's forward replaced by the rule, its logits steered by hand."""

    def forward(router: Router) -> Callable[[torch.Tensor], Any]:
        alpha = torch.ones(router.num_experts, dtype=torch.float64)
        alpha[list(steering.experts.get(router.layer, ()))] += steering.strength

        def rule(hidden: torch.Tensor) -> Any:
            module: Any = router.module
            flat = hidden.reshape(-1, hidden.shape[-1]).double()
            bias = getattr(module, "bias", None)
            z = flat @ module.weight.double().T + (0 if bias is None else bias.double()) + alpha.log()
            choices = [RULES[model.config.model_type](module, model.config, row) for row in z]
            chosen = torch.tensor([list(choice) for choice in choices])
            weights = torch.tensor([list(choice.values()) for choice in choices]).float()
            if model.config.model_type == "llama4_text":
                return torch.zeros_like(z).float().scatter(1, chosen, weights), z.float()
            return z.float(), weights, chosen

        return rule

    routers = find_routers(model)
    for router in routers:
        router.module.forward = forward(router)
    try:
        yield
    finally:
        for router in routers:
            del router.module.forward


def test_every_family_is_held_to_its_rule() -> None:
    assert set(RULES) == set(known_families()) == {name.removesuffix("_greedy") for name in CONFIGS}


@pytest.mark.parametrize("strength", [-0.9, 0.5, 4.0, 63.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_steered_logits_equal_those_of_routers_written_by_hand(family: str, seed: int, strength: float) -> None:
    """Prompts of unequal length, padded left and right; then generation with a cache."""
    model = random_model(family, seed)
    first, *_, last = find_routers(model)
    steering = Steering({first.layer: (1, 5), last.layer: (0, 3, 6)}, strength)
    ids = torch.randint(3, 190, (2, 12), generator=torch.Generator().manual_seed(seed))
    masks = [torch.ones_like(ids), torch.ones_like(ids), torch.ones_like(ids)]
    masks[1][0, :5] = 0
    masks[2][1, 8:] = 0

    def run() -> list[torch.Tensor]:
        with torch.no_grad():
            found = [model(ids, attention_mask=mask).logits[mask.bool()] for mask in masks]
            generated = model.generate(
                ids, attention_mask=masks[0], max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
        return [*found, torch.stack(generated.logits)]

    base = run()
    with steer(model, steering):
        steered = run()
    with by_hand(model, steering):
        expected = run()
    for ours, oracle in zip(steered, expected, strict=True):
        assert torch.allclose(ours, oracle, rtol=0, atol=1e-4)
    assert (steered[0] - base[0]).abs().max() > 1e-3
