"""Watching a steering at work: whether every router is reached, and how many choices came out otherwise."""

from collections.abc import Sequence
from typing import Any

import torch

from dsmoe.errors import SteeringError
from dsmoe.models.forwards import Forward
from dsmoe.models.routers import TIE
from dsmoe.results import RoutingChange
from dsmoe.steering.mode import Intercept, Mode

UNDOING = "a correction bias or a group limit"


class _Counts:
    """A router's counts, kept on its own device, so that nobody waits for them before they are read."""

    def __init__(self, mode: Mode) -> None:
        self.may_be_undone = mode.may_be_undone
        self.tokens, self.changed, self.undone = torch.zeros(3, dtype=torch.int64, device=mode.device)

    def add(self, mode: Mode, linear: torch.Tensor, output: Any) -> None:
        """Count one forward. A few small kernels a call are all that it may cost."""
        moved = mode.router.read(output)
        self.tokens.add_(len(moved.chosen))
        if mode.moves_choice:
            scores_TE = mode.router.choice_scores(linear.view_as(moved.logits).to(moved.logits))
            # Rounding may turn what differs by less than that.
            bound_T1 = scores_TE.gather(1, moved.chosen).amin(dim=1, keepdim=True).add_(TIE)
            better_T = (scores_TE > bound_T1).sum(dim=1)
            self.changed.add_((better_T >= mode.router.top_k).sum())
        if mode.may_be_undone:
            self.undone.add_(mode.undone(moved.chosen).sum())

    def take(self) -> tuple[int, int, int]:
        """Tokens, changed choices and undone ones since the last call."""
        found = (int(self.tokens), int(self.changed), int(self.undone))
        self.forget()
        return found

    def forget(self) -> None:
        """Count anew."""
        for count in (self.tokens, self.changed, self.undone):
            count.zero_()


class RoutingWatch:
    """Watches the steered routers of a model inside `dsmoe.steer`."""

    def __init__(self, modes: Sequence[Mode]) -> None:
        self._counts = {mode.router.layer: _Counts(mode) for mode in modes}

    def over(self, mode: Mode, original: Forward) -> Forward:
        """The router's forward under the mode, watched; `original` is the unsteered one."""
        counts = self._counts[mode.router.layer]

        def forward(*args: Any, **kwargs: Any) -> Any:
            output, linear = steered(mode, original, args, kwargs)
            with torch.no_grad():
                counts.add(mode, linear, output)
            return output

        forward.is_steered = True  # type: ignore[attr-defined]
        return forward

    @property
    def may_be_undone(self) -> bool:
        """Whether what comes after the logits can undo the mode in some token, which the entry's proof may not see."""
        return any(counts.may_be_undone for counts in self._counts.values())

    def forget(self) -> None:
        """Count anew: a forward that broke off says nothing of the next one."""
        for counts in self._counts.values():
            counts.forget()

    def check(self) -> None:
        """Raise as `take` does where a force was undone: a single number is waited for, since every forward asks."""
        first, *others = (counts.undone for counts in self._counts.values())
        if sum((undone.to(first.device) for undone in others), first):
            self.take()

    def take(self) -> RoutingChange:
        """The counts since the last call.

        Raises SteeringError where steered layers were not reached by equally many tokens, or a correction bias or a
        group limit undid mode `force`: what the model computed meanwhile is not what the steering says.
        """
        found = {layer: counts.take() for layer, counts in self._counts.items()}
        if len({tokens for tokens, _, _ in found.values()}) > 1:
            told = ", ".join(f"layer {layer}: {tokens}" for layer, (tokens, _, _) in found.items())
            raise SteeringError(
                f"steered layers did not route equally many tokens ({told}): some path bypasses a router, or a forward "
                "broke off within the context"
            )
        for layer, (tokens, _, undone) in found.items():
            if undone:
                raise SteeringError(f"layer {layer}: mode force is undone by {UNDOING} for {undone} of {tokens} tokens")
        return RoutingChange(
            sum(tokens for tokens, _, _ in found.values()), sum(changed for _, changed, _ in found.values())
        )


def steered(mode: Mode, original: Forward, args: Any, kwargs: Any) -> tuple[Any, torch.Tensor]:
    """What the router's forward returns under the mode, and what its `F.linear` returned before the mode's change.

    Raises SteeringError unless it calls `F.linear` once.
    """
    intercept = Intercept(mode)
    with intercept:
        output = original(*args, **kwargs)
    if len(intercept.linear) != 1:
        raise SteeringError(
            f"layer {mode.router.layer}: the router calls F.linear {len(intercept.linear)} times, not once"
        )
    return mode.output(output), intercept.linear[0]
