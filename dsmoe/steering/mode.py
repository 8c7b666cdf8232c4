"""What a mode of steering is: how one router's forward changes, and how to see that it did."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from dsmoe.models.routers import Router, RouterOutput, rounding
from dsmoe.steering.steering import Steering

Forward = Callable[..., Any]


class Mode(ABC):
    """One router under one steering; each file of `modes/` has one of these, called `MODE`.

    Raises InputError, on making, where the mode means nothing for the router's family.
    """

    def __init__(self, router: Router, steering: Steering) -> None:
        self.router = router
        self.experts = list(steering.experts[router.layer])
        self.steering = steering
        self.device = next(router.module.parameters()).device

    @abstractmethod
    def steered(self, original: Forward) -> Forward:
        """The router's forward under the mode, made of the original one."""

    @abstractmethod
    def fault(self, linear: torch.Tensor, plain: RouterOutput, moved: RouterOutput) -> str | None:
        """What the router did otherwise than the mode says, None if nothing.

        `linear` [tokens, experts] is what the unsteered router's `F.linear` returned, `plain` what its forward did, and
        `moved` what the steered one did.
        """

    def alpha(self) -> torch.Tensor:
        """α = 1 + strength for the steered experts, 1 for the others: [experts] in float32."""
        return self.spread(1 + self.steering.strength, 1.0)

    def spread(self, steered: float, others: float) -> torch.Tensor:
        """One value for the steered experts and one for the others: [experts] in float32."""
        values = torch.full((self.router.num_experts,), others, device=self.device)
        values[self.experts] = steered
        return values


class Intercept(TorchFunctionMode):
    """Passes the result of every call of one of `functions` inside it through `change`, and counts the calls."""

    def __init__(self, functions: tuple[Any, ...], change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.functions = functions
        self.change = change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return self.change(result) if func in self.functions else result


def intercepted(
    original: Forward, functions: tuple[Any, ...], change: Callable[[torch.Tensor], torch.Tensor]
) -> Forward:
    """`original`, with `change` made to what those functions return inside it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        with Intercept(functions, change):
            return original(*args, **kwargs)

    return forward


def follows(scores_TE: torch.Tensor, chosen_TK: torch.Tensor) -> bool:
    """Whether no expert that was left out has a higher score than one that was chosen, but for rounding."""
    lowest_chosen = scores_TE.gather(1, chosen_TK).min(dim=1).values
    highest_left_out = scores_TE.scatter(1, chosen_TK, -torch.inf).max(dim=1).values
    return bool((lowest_chosen >= highest_left_out - rounding(scores_TE)).all())
