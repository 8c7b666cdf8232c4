"""A control: scores drawn at random, which know nothing of the domain."""

import torch

from dsmoe.discovery.rule import Evidence, Rule


def score(evidence: Evidence) -> torch.Tensor:
    """[layers, experts]: uniform in [0, 1), the same for the same seed."""
    generator = torch.Generator().manual_seed(evidence.seed)
    return torch.rand(evidence.counts.total.shape, generator=generator, dtype=torch.float64)


RULE = Rule(score)
