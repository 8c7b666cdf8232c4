"""Qwen3-MoE: softmax over all experts, then top-k, weights renormalised (norm_topk_prob). Some layers may be dense."""

ROUTER = "mlp.gate"
