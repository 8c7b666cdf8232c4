"""RICE (arXiv 2505.14681): the normalised pointwise mutual information of experts and marker tokens.

nPMI(e, m) = ln[P(e, m) / (P(e) P(m))] / −ln P(e, m), over all tokens, special ones too; −1 where they never meet.
Scores are summed over markers, times their coefficients; the two best experts are steered.
"""

import torch

from dsmoe.discovery.counts import tokens_a_layer
from dsmoe.discovery.rule import Evidence, Rule, Suggestion


def score(evidence: Evidence) -> torch.Tensor:
    """[layers, experts]: Σ coefficient · nPMI, each nPMI in [−1, 1]."""
    chose = (evidence.counts.total + evidence.counts.special).double()
    tokens = tokens_a_layer(chose, evidence.top_k)
    scores = torch.zeros_like(chose)
    for text, coefficient in evidence.markers.items():
        both = evidence.counts.markers[text].double()
        expected = chose / tokens * tokens_a_layer(both, evidence.top_k) / tokens
        joint = both / tokens
        # 1 is the limit where an expert is chosen by the marker's tokens alone, and these are all tokens.
        npmi = torch.where(joint < 1, (joint / expected).log() / -joint.log(), 1.0)
        scores += coefficient * torch.where(both > 0, npmi, -1.0)
    return scores


RULE = Rule(score, Suggestion(num_experts=2, mode="gate", strength=63.0, scale_back=False), marks=True)
