"""ERNIE-4.5-MoE: softmax plus a correction bias chooses; the softmax alone weighs, renormalised, in float32."""

from typing import Any

import torch

from dsmoe.models.routers import Factors, Family


def choice_scores(router: Any, logits: torch.Tensor, factors: Factors) -> torch.Tensor:
    """Probabilities plus the correction bias."""
    return logits.float().softmax(dim=-1) * factors + router.moe_statics.e_score_correction_bias.squeeze(0)


FAMILY = Family("mlp.gate", choice_scores)
