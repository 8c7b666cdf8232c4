"""Llama-4: top-k of the logits, each weighted by its own sigmoid, which scales the expert's input; a shared expert."""

from typing import Any

from dsmoe.models.routers import Family, RouterOutput


def read(router: Any, output: Any) -> RouterOutput:
    """Its forward returns (weights [tokens, experts], 0 for experts left out; logits), and no indices."""
    weights, logits = output
    chosen = logits.topk(router.top_k, dim=-1).indices
    return RouterOutput(logits, weights.gather(-1, chosen), chosen)


FAMILY = Family("feed_forward.router", read=read)
