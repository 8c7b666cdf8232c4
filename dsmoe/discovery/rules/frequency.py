"""How busy an expert is on the domain, whatever the tokens: P(e|D) = n_e / N."""

import torch

from dsmoe.discovery.profile import RoutingCounts


def score(counts: RoutingCounts, seed: int) -> torch.Tensor:
    """[layers, experts]: the expert's share of all choices N."""
    return counts.total.double() / counts.total.sum()
