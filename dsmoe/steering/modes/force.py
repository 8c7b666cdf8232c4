"""Mode `force`: steered experts are always chosen (strength above 0) or never (below 0); SteerMoE (2509.09660)."""

from typing import Any

import torch
from torch.nn import functional

from dsmoe.errors import InputError, SteeringError
from dsmoe.models.routers import Router, RouterOutput
from dsmoe.steering.mode import Forward, Mode, follows, intercepted
from dsmoe.steering.steering import Steering

MARGIN = 2**-6
"""ε relative to the score that it is added to: four steps of bf16 at the least."""


class Force(Mode):
    """Replaces logits by s = log-softmax(z); steered experts get max(s) + ε, or min(s) − ε, token by token."""

    def __init__(self, router: Router, steering: Steering) -> None:
        super().__init__(router, steering)
        most = router.top_k if steering.strength > 0 else router.num_experts - router.top_k
        if steering.strength != 0 and len(self.experts) > most:
            what = "activates" if steering.strength > 0 else "deactivates"
            raise InputError(
                f"steering: layer {router.layer}: mode force {what} {len(self.experts)} experts; with "
                f"top-{router.top_k} of {router.num_experts} at most {most} can be"
            )

    def steered(self, original: Forward) -> Forward:
        """The router's forward with forced logits; raises SteeringError where a bias or a group undoes the force."""
        forced = intercepted(original, (functional.linear,), self._forced)

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = forced(*args, **kwargs)
            if not self._obeyed(self.router.read(output).chosen):
                raise SteeringError(
                    f"layer {self.router.layer}: mode force is undone by a correction bias or a group limit"
                )
            return output

        return forward

    def _forced(self, logits: torch.Tensor) -> torch.Tensor:
        if self.steering.strength == 0:
            return logits
        scores = logits.float().log_softmax(dim=-1)
        if self.steering.strength > 0:
            edge = scores.amax(dim=-1, keepdim=True)
            value = edge + MARGIN * edge.abs().clamp(min=1)
        else:
            edge = scores.amin(dim=-1, keepdim=True)
            value = edge - MARGIN * edge.abs().clamp(min=1)
        steered = self.spread(1.0, 0.0).bool().to(logits.device)
        return torch.where(steered, value, scores).to(logits)

    def _obeyed(self, chosen_TK: torch.Tensor) -> bool:
        if self.steering.strength == 0:
            return True
        present = [(chosen_TK == expert).any(dim=-1) for expert in self.experts]
        return bool(torch.stack(present).all() if self.steering.strength > 0 else not torch.stack(present).any())

    def fault(self, linear: torch.Tensor, plain: RouterOutput, moved: RouterOutput) -> str | None:
        """The logits must be the forced ones, to the bit; the choice follows them."""
        if not torch.equal(moved.logits, self._forced(linear).to(plain.logits).view_as(moved.logits)):
            return "router logits are not the forced ones"
        if not follows(self.router.choice_scores(moved.logits), moved.chosen):
            return "the chosen experts are not those with the highest scores"
        return None


MODE = Force
