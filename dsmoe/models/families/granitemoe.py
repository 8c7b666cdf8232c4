"""Granite-MoE: top-k of the logits, then softmax over the chosen."""

from dsmoe.models.routers import Family

FAMILY = Family("block_sparse_moe.router", chooses_on_logits=True)
