"""Mixtral: softmax over all experts, then top-k, weights always renormalised."""

from dsmoe.models.routers import Family

FAMILY = Family("mlp.gate")
