"""Phi-MoE: sparsemixer (arXiv 2409.12136) takes the two highest logits, each weighted by a softmax of its own."""

from dsmoe.models.routers import Family

FAMILY = Family("mlp.router", chooses_on_logits=True)
