"""Mode `gate`: the weights of steered experts among the chosen ones times α, after the choice.

Scaled back to the weights' original sum (the literal text of DSMoE, Eq. 11), or not (RICE, arXiv 2505.14681).
"""

from typing import Any

import torch

from dsmoe.models.routers import Router, RouterOutput, follows
from dsmoe.steering.mode import Mode
from dsmoe.steering.steering import Steering


class Gate(Mode):
    """Changes the weights that the router returns; which experts are chosen stays."""

    moves_choice = False

    def __init__(self, router: Router, steering: Steering) -> None:
        super().__init__(router, steering)
        self.factors = self.alpha()

    def output(self, output: Any) -> Any:
        """The router's output with other weights."""
        return self.router.write(output, self._weights(self.router.read(output)))

    def _weights(self, output: RouterOutput) -> torch.Tensor:
        weights = output.weights * self.factors.to(output.weights)[output.chosen]
        if not self.steering.scale_back or self.steering.strength == 0:
            return weights
        scaled = weights.float()
        before = output.weights.float().sum(dim=-1, keepdim=True)
        return (scaled * before / scaled.sum(dim=-1, keepdim=True)).to(weights)

    def fault(self, linear: torch.Tensor, plain: RouterOutput, moved: RouterOutput) -> str | None:
        """Logits and choice stay, to the bit, and the choice follows; the weights are those computed."""
        if not (torch.equal(moved.logits, plain.logits) and torch.equal(moved.chosen, plain.chosen)):
            return "the router's logits or its choice moved, where only the weights should"
        if not follows(self.router.choice_scores(plain.logits), plain.chosen).all():
            return "the chosen experts are not those with the highest scores"
        if not torch.equal(moved.weights, self._weights(plain)):
            return "the weights are not the unsteered ones times α"
        return None


MODE = Gate
