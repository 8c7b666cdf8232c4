"""Llama-4: top-k of the logits, each weighted by its own sigmoid, which scales the expert's input; a shared expert."""

from typing import Any

import torch

from dsmoe.models.routers import Family, RouterOutput


def read(router: Any, output: Any) -> RouterOutput:
    """Its forward returns (weights [tokens, experts], 0 for experts left out; logits), and no indices."""
    weights, logits = output
    chosen = logits.topk(router.top_k, dim=-1).indices
    return RouterOutput(logits, weights.gather(-1, chosen), chosen)


def write(router: Any, output: Any, weights: torch.Tensor) -> Any:
    """The other weights in the same form."""
    zeros, logits = torch.zeros_like(output[0]), output[1]
    return zeros.scatter(-1, logits.topk(router.top_k, dim=-1).indices, weights), logits


FAMILY = Family("feed_forward.router", chooses_on_logits=True, read=read, write=write)
