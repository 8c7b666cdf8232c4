"""DeepSeek-V3: sigmoid plus a correction bias chooses within the best groups; the sigmoid alone weighs."""

from typing import Any

import torch

from dsmoe.models.routers import Factors, Family


def choice_scores(router: Any, logits: torch.Tensor, factors: Factors) -> torch.Tensor:
    """Corrected scores; -inf outside the groups whose two best experts sum highest (arXiv 2412.19437, Eq. 16)."""
    corrected = logits.float().sigmoid() * factors + router.e_score_correction_bias
    grouped = corrected.view(*corrected.shape[:-1], router.num_group, -1)
    best = grouped.topk(2, dim=-1).values.sum(dim=-1).topk(router.topk_group, dim=-1).indices
    left_out = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, False)
    return grouped.masked_fill(left_out[..., None], -torch.inf).flatten(-2)


FAMILY = Family("mlp.gate", choice_scores)
