"""ESFT's average gate score (arXiv 2407.01906): the mean weight that the router gives an expert.

Normalised over the experts of a layer, as the paper has it; its script normalises over layers. Experts are taken layer
by layer until their scores sum up to top_p.
"""

import torch

from dsmoe.discovery.rule import Evidence, Rule, Suggestion


def score(evidence: Evidence) -> torch.Tensor:
    """[layers, experts]: the expert's share of all weight that the layer's router gave; each layer sums up to 1."""
    weights = evidence.counts.gate_weights
    return weights / weights.sum(dim=1, keepdim=True)


RULE = Rule(score, Suggestion(top_p=0.1))
