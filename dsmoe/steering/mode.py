"""What a mode of steering is: what it makes of a router's logits, scores and output, and how to see that it did."""

from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dsmoe.models.routers import Router, RouterOutput
from dsmoe.steering.steering import Steering

SCORES = {functional.softmax, torch.softmax, torch.Tensor.softmax, torch.sigmoid, torch.Tensor.sigmoid}


class Mode:
    """One router under one steering; each file of `modes/` has a subclass, called `MODE`. This one changes nothing."""

    moves_choice = True
    """Whether other experts may be chosen; else only their weights change."""
    may_be_undone = False
    """Whether what comes after the logits can undo the mode, so that `undone` must be asked about every token."""

    def __init__(self, router: Router, steering: Steering) -> None:
        self.router = router
        self.experts = list(steering.experts.get(router.layer, ()))
        self.steering = steering
        self.device = next(router.module.parameters()).device

    def logits(self, linear: torch.Tensor) -> torch.Tensor:
        """What the rest of the router sees in place of the result [..., experts] of its one `F.linear`."""
        return linear

    def scores(self, scores: torch.Tensor) -> torch.Tensor:
        """What the rest of the router sees in place of its softmax or sigmoid [tokens, experts]."""
        return scores

    def output(self, output: Any) -> Any:
        """What the model sees in place of what the router's forward returned."""
        return output

    def undone(self, chosen_TK: torch.Tensor) -> torch.Tensor:
        """Which tokens [tokens] were routed against the mode."""
        return torch.zeros(len(chosen_TK), dtype=torch.bool, device=chosen_TK.device)

    def fault(self, linear: torch.Tensor, plain: RouterOutput, moved: RouterOutput) -> str | None:
        """What the router did otherwise than the mode says, None if nothing.

        `linear` [..., experts] is what the unsteered router's `F.linear` returned, `plain` what its forward did, and
        `moved` what the steered one did.
        """
        return None

    def alpha(self) -> torch.Tensor:
        """α = 1 + strength for the steered experts, 1 for the others: [experts] in float32."""
        return self.spread(1 + self.steering.strength, 1.0)

    def spread(self, steered: float, others: float) -> torch.Tensor:
        """One value for the steered experts and one for the others: [experts] in float32."""
        values = torch.full((self.router.num_experts,), others, device=self.device)
        values[self.experts] = steered
        return values


class Intercept(TorchFunctionMode):
    """Inside it a mode changes what a router's `F.linear`, and its softmax or sigmoid, return.

    `linear` keeps what `F.linear` itself returned, call by call.
    """

    def __init__(self, mode: Mode) -> None:
        super().__init__()
        self.mode = mode
        self.linear: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is functional.linear:
            self.linear.append(result)
            return self.mode.logits(result)
        return self.mode.scores(result) if func in SCORES else result
