"""What the code of DSMoE's authors computes: (n_e^S − n_e^C) · n_e / N, which favours busy experts twice."""

import torch

from dsmoe.discovery.rule import Evidence, Rule


def score(evidence: Evidence) -> torch.Tensor:
    """[layers, experts]: the paper's score times the expert's count."""
    counts = evidence.counts
    return ((counts.important - counts.unimportant) * counts.total).double() / counts.total.sum()


RULE = Rule(score)
