"""Mode `score`: the router's softmax or sigmoid times α, before the choice, not renormalised."""

import torch

from dsmoe.models.routers import Router, RouterOutput, follows
from dsmoe.steering.mode import Mode
from dsmoe.steering.steering import Steering


class Score(Mode):
    """Multiplies what the router's one softmax or sigmoid returns; correction biases and groups come after."""

    def __init__(self, router: Router, steering: Steering) -> None:
        super().__init__(router, steering)
        self.factors = self.alpha()

    def scores(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores times α."""
        return scores * self.factors.to(scores)

    def fault(self, linear: torch.Tensor, plain: RouterOutput, moved: RouterOutput) -> str | None:
        """The logits stay, to the bit; the choice follows the scaled scores."""
        if not torch.equal(moved.logits, plain.logits):
            return "the router's logits moved, where only its scores should"
        if not follows(self.router.choice_scores(plain.logits, self.factors), moved.chosen).all():
            return "the chosen experts are not those with the highest scaled scores"
        return None


MODE = Score
