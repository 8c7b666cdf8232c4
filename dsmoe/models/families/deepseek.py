"""DeepSeek-MoE: softmax over all experts, then top-k, weights not renormalised, and shared experts."""

from dsmoe.models.routers import Family

FAMILY = Family("mlp.gate")
