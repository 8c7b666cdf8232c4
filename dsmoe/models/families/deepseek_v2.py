"""DeepSeek-V2: softmax over all experts, then top-k of all or of the best groups; weights scaled, not renormalised."""

from typing import Any

import torch

from dsmoe.models.routers import Factors, Family


def choice_scores(router: Any, logits: torch.Tensor, factors: Factors) -> torch.Tensor:
    """Probabilities; 0 outside the groups whose best expert is likeliest (arXiv 2405.04434, section 2.2.2)."""
    probabilities = logits.float().softmax(dim=-1) * factors
    if router.topk_method == "greedy":
        return probabilities
    grouped = probabilities.view(*probabilities.shape[:-1], router.num_group, -1)
    best = grouped.amax(dim=-1).topk(router.topk_group, dim=-1).indices
    kept = torch.zeros_like(grouped[..., 0]).scatter(-1, best, 1.0)
    return (grouped * kept[..., None]).flatten(-2)


FAMILY = Family("mlp.gate", choice_scores)
