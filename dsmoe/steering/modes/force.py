"""Mode `force`: steered experts are always chosen (strength above 0) or never (below 0); SteerMoE (2509.09660)."""

import torch

from dsmoe.models.routers import Router, RouterOutput, follows
from dsmoe.steering.mode import Mode
from dsmoe.steering.steering import Steering

MARGIN = 2**-6
"""ε relative to the score that it is added to: four steps of bf16 at the least."""


class Force(Mode):
    """Replaces logits by s = log-softmax(z); steered experts get max(s) + ε, or min(s) − ε, token by token."""

    may_be_undone = True

    def __init__(self, router: Router, steering: Steering) -> None:
        super().__init__(router, steering)
        self.steered = self.spread(1.0, 0.0).bool()

    def logits(self, linear: torch.Tensor) -> torch.Tensor:
        """The forced logits; at strength 0 the router's own."""
        if self.steering.strength == 0:
            return linear
        scores = linear.float().log_softmax(dim=-1)
        if self.steering.strength > 0:
            edge = scores.amax(dim=-1, keepdim=True)
            value = edge + MARGIN * edge.abs().clamp(min=1)
        else:
            edge = scores.amin(dim=-1, keepdim=True)
            value = edge - MARGIN * edge.abs().clamp(min=1)
        return torch.where(self.steered.to(linear.device), value, scores).to(linear)

    def undone(self, chosen_TK: torch.Tensor) -> torch.Tensor:
        """Tokens [tokens] for which a correction bias or a group limit has undone the force."""
        if self.steering.strength == 0:
            return super().undone(chosen_TK)
        forced = self.steered.to(chosen_TK.device)[chosen_TK].sum(dim=-1)
        return forced != (len(self.experts) if self.steering.strength > 0 else 0)

    def fault(self, linear: torch.Tensor, plain: RouterOutput, moved: RouterOutput) -> str | None:
        """The logits must be the forced ones, to the bit; the choice follows them, and the force."""
        if not torch.equal(moved.logits, self.logits(linear).to(plain.logits).view_as(moved.logits)):
            return "router logits are not the forced ones"
        if not follows(self.router.choice_scores(moved.logits), moved.chosen).all():
            return "the chosen experts are not those with the highest scores"
        return None


MODE = Force
