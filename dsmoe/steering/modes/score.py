"""Mode `score`: the router's softmax or sigmoid times α, before the choice, not renormalised."""

import torch
from torch.nn import functional

from dsmoe.errors import InputError
from dsmoe.models.routers import Router, RouterOutput
from dsmoe.steering.mode import Forward, Mode, follows, intercepted
from dsmoe.steering.steering import Steering

SCORES = (functional.softmax, torch.softmax, torch.Tensor.softmax, torch.sigmoid, torch.Tensor.sigmoid)


class Score(Mode):
    """Multiplies what the router's one softmax or sigmoid returns; correction biases and groups come after."""

    def __init__(self, router: Router, steering: Steering) -> None:
        super().__init__(router, steering)
        if router.family.chooses_on_logits:
            raise InputError(
                f"steering.mode: score means nothing for {type(router.module).__name__}, which chooses on its logits, "
                "before any softmax or sigmoid; use logit"
            )

    def steered(self, original: Forward) -> Forward:
        """The router's forward with its scores scaled before the choice."""
        alpha = self.alpha()
        return intercepted(original, SCORES, lambda scores: scores * alpha.to(scores))

    def fault(self, linear: torch.Tensor, plain: RouterOutput, moved: RouterOutput) -> str | None:
        """The logits stay, to the bit; the choice follows the scaled scores."""
        if not torch.equal(moved.logits, plain.logits):
            return "the router's logits moved, where only its scores should"
        if not follows(self.router.choice_scores(plain.logits, self.alpha()), moved.chosen):
            return "the chosen experts are not those with the highest scaled scores"
        return None


MODE = Score
