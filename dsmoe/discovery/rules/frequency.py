"""How busy an expert is on the domain, whatever the tokens: P(e|D) = n_e / N."""

import torch

from dsmoe.discovery.rule import Evidence, Rule


def score(evidence: Evidence) -> torch.Tensor:
    """[layers, experts]: the expert's share of all choices N."""
    total = evidence.counts.total
    return total.double() / total.sum()


RULE = Rule(score)
