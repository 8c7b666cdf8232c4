"""Mixtral: softmax over all experts, then top-k, weights always renormalised."""

ROUTER = "mlp.gate"
