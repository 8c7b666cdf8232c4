"""Mode `logit`: z + ln α for the steered experts, before the choice (what the code of DSMoE's authors means to do)."""

import math

import torch

from dsmoe.models.routers import Router, RouterOutput, follows
from dsmoe.steering.mode import Mode
from dsmoe.steering.steering import Steering


class Logit(Mode):
    """Adds δ = ln α to what the router's one `F.linear` returns."""

    def __init__(self, router: Router, steering: Steering) -> None:
        super().__init__(router, steering)
        self.delta = self.spread(math.log1p(steering.strength), 0.0)

    def logits(self, linear: torch.Tensor) -> torch.Tensor:
        """The logits plus δ, in the number type of the linear map."""
        return linear + self.delta.to(linear)

    def fault(self, linear: torch.Tensor, plain: RouterOutput, moved: RouterOutput) -> str | None:
        """The logits must be, to the bit, the sum made in the number type of the linear map; the choice follows."""
        if not torch.equal(moved.logits, self.logits(linear).to(plain.logits).view_as(moved.logits)):
            return "router logits are not the unsteered logits plus ln α"
        if not follows(self.router.choice_scores(moved.logits), moved.chosen).all():
            return "the chosen experts are not those with the highest scores"
        return None


MODE = Logit
