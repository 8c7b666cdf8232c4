"""DSMoE's score (arXiv 2604.05267, Eq. 8): g = P(e|D) · [P(S|e) − P(C|e)] = (n_e^S − n_e^C) / N."""

import torch

from dsmoe.discovery.rule import Evidence, Rule


def score(evidence: Evidence) -> torch.Tensor:
    """[layers, experts]: how much more often important tokens chose the expert, as a share of all choices N."""
    counts = evidence.counts
    return (counts.important - counts.unimportant).double() / counts.total.sum()


RULE = Rule(score)
