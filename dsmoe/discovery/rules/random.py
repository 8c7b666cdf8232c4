"""A control: scores drawn at random, which know nothing of the domain."""

import torch

from dsmoe.discovery.profile import RoutingCounts


def score(counts: RoutingCounts, seed: int) -> torch.Tensor:
    """[layers, experts]: uniform in [0, 1), the same for the same seed."""
    return torch.rand(counts.total.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
