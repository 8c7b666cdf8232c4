"""Qwen1.5-MoE and Qwen2-MoE: softmax over all experts, then top-k, and a shared expert. Some layers may be dense."""

from dsmoe.models.routers import Family

FAMILY = Family("mlp.gate")
