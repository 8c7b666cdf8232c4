"""Qwen1.5-MoE and Qwen2-MoE: softmax over all experts, then top-k, and a shared expert. Some layers may be dense."""

ROUTER = "mlp.gate"
