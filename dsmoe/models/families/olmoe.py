"""OLMoE: softmax over all experts, then top-k; weights not renormalised unless norm_topk_prob says so."""

from dsmoe.models.routers import Family

FAMILY = Family("mlp.gate")
