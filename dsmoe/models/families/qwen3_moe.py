"""Qwen3-MoE: softmax over all experts, then top-k, weights renormalised (norm_topk_prob). Some layers may be dense."""

from dsmoe.models.routers import Family

FAMILY = Family("mlp.gate")
