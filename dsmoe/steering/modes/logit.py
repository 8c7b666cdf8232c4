"""Mode `logit`: z + ln α for the steered experts, before the choice (what the code of DSMoE's authors means to do)."""

import math

import torch
from torch.nn import functional

from dsmoe.models.routers import RouterOutput
from dsmoe.steering.mode import Forward, Mode, follows, intercepted


class Logit(Mode):
    """Adds δ = ln α to what the router's one `F.linear` returns."""

    def steered(self, original: Forward) -> Forward:
        """The router's forward with δ added to its logits before the choice."""
        delta = self._delta()
        return intercepted(original, (functional.linear,), lambda logits: logits + delta.to(logits))

    def fault(self, linear: torch.Tensor, plain: RouterOutput, moved: RouterOutput) -> str | None:
        """The logits must be, to the bit, the sum made in the number type of the linear map; the choice follows."""
        expected = linear + self._delta().to(linear)
        if not torch.equal(moved.logits, expected.to(plain.logits).view_as(moved.logits)):
            return "router logits are not the unsteered logits plus ln α"
        if not follows(self.router.choice_scores(moved.logits), moved.chosen):
            return "the chosen experts are not those with the highest scores"
        return None

    def _delta(self) -> torch.Tensor:
        return self.spread(math.log1p(self.steering.strength), 0.0)


MODE = Logit
