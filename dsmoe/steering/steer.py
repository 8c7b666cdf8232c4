"""Steering a transformers model in place: inside the context its routers choose otherwise, after it all is as before.

Every router module of transformers chooses inside its own forward, so a hook on its output comes too late for most
modes. We run that forward as it stands, and change what single calls inside it return: that of `F.linear`, between the
linear map and the choice, or that of the softmax or sigmoid after it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from dsmoe import plugins
from dsmoe.errors import InputError, SteeringError
from dsmoe.models.routers import find_routers, shape_of
from dsmoe.steering.mode import Forward, Mode, intercepted
from dsmoe.steering.steering import Steering

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODES = "dsmoe.steering.modes"
PROBE_TOKENS = 16


@contextmanager
def steer(model: "PreTrainedModel", steering: Steering) -> Iterator["PreTrainedModel"]:
    """Steer `model` inside the context; on leaving, also by an exception, it is as it was, to the bit.

    On entry one forward over a few tokens proves, layer by layer, that the routers are reached and did, to the bit,
    what the mode says (DSMoE, arXiv 2604.05267, Eq. 11), and that the choice follows. A backward pass belongs inside
    the context too. Strength 0 takes the same way and changes no bit.

    Raises InputError where the steering does not fit the model, SteeringError where the proof fails.
    """
    modes = _modes(model, steering)
    _prove(model, modes)
    with _forwards({mode.router.module: _marked(mode.steered(mode.router.module.forward)) for mode in modes}):
        yield model


def _modes(model: "PreTrainedModel", steering: Steering) -> list[Mode]:
    """The steered routers, each under the steering's mode."""
    steering.check_fit(shape_of(model))
    routers = {router.layer: router for router in find_routers(model)}
    if any(getattr(router.module.forward, "is_steered", False) for router in routers.values()):
        raise InputError("steering: the model is steered already; leave that context first")
    kind = plugins.load(MODES, steering.mode, "steering.mode").MODE
    return [kind(routers[layer], steering) for layer in steering.experts]


def _marked(forward: Forward) -> Forward:
    """`forward`, to be known as a steered one."""
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


def _prove(model: "PreTrainedModel", modes: list[Mode]) -> None:
    """Run a few tokens through the model with every steered router watched; raise SteeringError unless all moved."""
    reached = set()

    def watched(mode: Mode) -> Forward:
        layer, original = mode.router.layer, mode.router.module.forward
        steered = mode.steered(original)

        def forward(*args: Any, **kwargs: Any) -> Any:
            linear: list[torch.Tensor] = []

            def note(result: torch.Tensor) -> torch.Tensor:
                linear.append(result)
                return result

            plain = mode.router.read(intercepted(original, (functional.linear,), note)(*args, **kwargs))
            if len(linear) != 1:
                raise SteeringError(f"layer {layer}: the router calls F.linear {len(linear)} times, not once")
            output = steered(*args, **kwargs)
            if fault := mode.fault(linear[0], plain, mode.router.read(output)):
                raise SteeringError(f"layer {layer}: {fault}")
            reached.add(layer)
            return output

        return forward

    device = model.get_input_embeddings().weight.device
    probe = torch.linspace(0, model.config.vocab_size - 1, PROBE_TOKENS, device=device).long()[None]
    watching = {mode.router.module: watched(mode) for mode in modes}
    with _forwards(watching), torch.no_grad(), torch.random.fork_rng():
        model(input_ids=probe, use_cache=False)
    if missed := [mode.router.layer for mode in modes if mode.router.layer not in reached]:
        raise SteeringError(f"the routers of layers {missed} were not reached: the model bypasses their forward")
