"""ESFT's token selection ratio (arXiv 2407.01906): the share of a layer's choices that fall on an expert.

Experts are taken layer by layer until their scores sum up to top_p.
"""

import torch

from dsmoe.discovery.rule import Evidence, Rule, Suggestion


def score(evidence: Evidence) -> torch.Tensor:
    """[layers, experts]: n_e over the layer's choices; each layer sums up to 1."""
    total = evidence.counts.total.double()
    return total / total.sum(dim=1, keepdim=True)


RULE = Rule(score, Suggestion(top_p=0.2))
