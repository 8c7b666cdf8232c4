"""Qwen3-Next: softmax over all experts, then top-k, weights renormalised (norm_topk_prob), and a shared expert."""

from dsmoe.models.routers import Family

FAMILY = Family("mlp.gate")
