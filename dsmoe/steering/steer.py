"""Steering a transformers model in place: inside the context its routers choose otherwise, after it all is as before.

Every router module of transformers chooses inside its own forward, so a hook on its output comes too late. The one
place between the linear map and the choice is the call of `F.linear` in the router's forward: we run that forward as
it stands, and add δ to what that call returns.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dsmoe.errors import InputError, SteeringError
from dsmoe.models.routers import Router, find_routers, rounding, shape_of
from dsmoe.steering.steering import Steering

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_TOKENS = 16
Forward = Callable[..., tuple[torch.Tensor, ...]]


@contextmanager
def steer(model: "PreTrainedModel", steering: Steering) -> Iterator["PreTrainedModel"]:
    """Steer `model` inside the context; on leaving, also by an exception, it is as it was, to the bit.

    On entry one forward over a few tokens proves, layer by layer, that the routers are reached, that their logits are
    the floating-point sum of the unsteered logits and ln α (DSMoE, arXiv 2604.05267, Eq. 11), and that the choice
    follows them. A backward pass belongs inside the context too. Strength 0 takes the same way and changes no bit.

    Raises InputError where the steering does not fit the model, SteeringError where the proof fails.
    """
    deltas = [(router, _delta(router, steering)) for router in _steered_routers(model, steering)]
    _prove(model, deltas)
    with _forwards({router.module: _steered(router.module.forward, delta) for router, delta in deltas}):
        yield model


class _AddToLogits(TorchFunctionMode):
    """Adds `delta` [experts] to the result of every `F.linear` inside it."""

    def __init__(self, delta: torch.Tensor) -> None:
        super().__init__()
        self.delta = delta

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result + self.delta.to(result) if func is functional.linear else result


class _WatchLinear(TorchFunctionMode):
    """Counts the calls of `F.linear` inside it, and notes the number type of what they return."""

    calls = 0
    dtype = torch.float32

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is functional.linear:
            self.calls += 1
            self.dtype = result.dtype
        return result


def _steered_routers(model: "PreTrainedModel", steering: Steering) -> list[Router]:
    steering.check_fit(shape_of(model))
    routers = {router.layer: router for router in find_routers(model)}
    if any(getattr(router.module.forward, "is_steered", False) for router in routers.values()):
        raise InputError("steering: the model is steered already; leave that context first")
    return [routers[layer] for layer in steering.experts]


def _delta(router: Router, steering: Steering) -> torch.Tensor:
    """δ [experts] in float32: ln α for the layer's chosen experts, 0 for the others."""
    delta = torch.zeros(router.num_experts, device=next(router.module.parameters()).device)
    delta[list(steering.experts[router.layer])] = steering.log_alpha
    return delta


def _steered(original: Forward, delta: torch.Tensor) -> Forward:
    """The router's forward with `delta` added to its logits before the choice."""

    def forward(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        with _AddToLogits(delta):
            return original(*args, **kwargs)

    forward.is_steered = True  # type: ignore[attr-defined]
    return forward


@contextmanager
def _forwards(replacements: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Replace the modules' own `forward`; after it their `__dict__` is as before (accelerate keeps a forward there)."""
    before = [(module, module.__dict__.get("forward")) for module in replacements]
    try:
        for module, forward in replacements.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, previous in before:
            if previous is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = previous


def _prove(model: "PreTrainedModel", deltas: list[tuple[Router, torch.Tensor]]) -> None:
    """Run a few tokens through the model with every steered router watched; raise SteeringError unless all moved."""
    reached = set()

    def watched(router: Router, delta: torch.Tensor) -> Forward:
        original = router.module.forward
        steered = _steered(original, delta)

        def forward(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
            with _WatchLinear() as linear:
                plain = router.read(original(*args, **kwargs))
            output = steered(*args, **kwargs)
            moved = router.read(output)
            if linear.calls != 1:
                raise SteeringError(f"layer {router.layer}: the router calls F.linear {linear.calls} times, not once")
            # Some routers cast their logits up right after the linear map: the sum is made before that.
            expected = plain.logits.to(linear.dtype) + delta.to(linear.dtype)
            if not torch.equal(moved.logits, expected.to(plain.logits)):
                raise SteeringError(f"layer {router.layer}: router logits are not the unsteered logits plus ln α")
            if not _choice_follows(router.choice_scores(moved.logits), moved.chosen):
                raise SteeringError(f"layer {router.layer}: the chosen experts are not those with the highest scores")
            reached.add(router.layer)
            return output

        return forward

    device = model.get_input_embeddings().weight.device
    probe = torch.linspace(0, model.config.vocab_size - 1, PROBE_TOKENS, device=device).long()[None]
    watching = {router.module: watched(router, delta) for router, delta in deltas}
    with _forwards(watching), torch.no_grad(), torch.random.fork_rng():
        model(input_ids=probe, use_cache=False)
    if missed := [router.layer for router, _ in deltas if router.layer not in reached]:
        raise SteeringError(f"the routers of layers {missed} were not reached: the model bypasses their forward")


def _choice_follows(scores_TE: torch.Tensor, chosen_TK: torch.Tensor) -> bool:
    """Whether no expert that was left out has a higher score than one that was chosen, but for rounding."""
    lowest_chosen = scores_TE.gather(1, chosen_TK).min(dim=1).values
    highest_left_out = scores_TE.scatter(1, chosen_TK, -torch.inf).max(dim=1).values
    return bool((lowest_chosen >= highest_left_out - rounding(scores_TE)).all())
