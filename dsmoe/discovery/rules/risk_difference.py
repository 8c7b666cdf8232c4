"""SteerMoE's risk difference (arXiv 2509.09660): A¹/N¹ − A²/N², the domain against other domains."""

import torch

from dsmoe.discovery.counts import tokens_a_layer
from dsmoe.discovery.rule import Evidence, Rule, Suggestion


def score(evidence: Evidence) -> torch.Tensor:
    """[layers, experts]: how much larger a share of the domain's tokens than of the contrast's chose the expert."""
    assert evidence.contrast is not None
    here, there = evidence.counts.total, evidence.contrast.total
    return here / tokens_a_layer(here, evidence.top_k) - there / tokens_a_layer(there, evidence.top_k)


RULE = Rule(score, Suggestion(within_top_k=True, mode="force", strength=1.0), contrasts=True)
