"""Steering a transformers model in place: inside the context its routers choose otherwise, after it all is as before.

Every router module of transformers chooses inside its own forward, so a hook on its output comes too late for most
modes. We run that forward as it stands, and change what single calls inside it return: that of `F.linear`, between the
linear map and the choice, or that of the softmax or sigmoid after it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from dsmoe import plugins
from dsmoe.errors import InputError, SteeringError
from dsmoe.models.forwards import Forward, replaced
from dsmoe.models.routers import find_routers, shape_of
from dsmoe.steering.mode import Mode
from dsmoe.steering.steering import Steering
from dsmoe.steering.watch import UNDOING, RoutingWatch, steered

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODES = "dsmoe.steering.modes"
PROBE_TOKENS = 16


@contextmanager
def steer(model: "PreTrainedModel", steering: Steering) -> Iterator[RoutingWatch]:
    """Steer `model` inside the context; on leaving, also by an exception, it is as it was, to the bit.

    On entry one forward over a few tokens proves, layer by layer, that the routers are reached and did, to the bit,
    what the mode says (DSMoE, arXiv 2604.05267, Eq. 11), and that the choice follows. The watch that is yielded counts
    the choices that changed, and on leaving every steered layer must have routed equally many tokens. A backward pass
    belongs inside the context too. Strength 0 takes the same way and changes no bit.

    Raises InputError where the steering does not fit the model, SteeringError where the proof fails, on entry or on
    leaving.
    """
    modes = _modes(model, steering)
    _prove(model, modes)
    watch = RoutingWatch(modes)
    with replaced({mode.router.module: watch.over(mode, mode.router.module.forward) for mode in modes}):
        yield watch
    watch.take()


def _modes(model: "PreTrainedModel", steering: Steering) -> list[Mode]:
    """The steered routers, each under the steering's mode."""
    steering.check_fit(shape_of(model))
    routers = {router.layer: router for router in find_routers(model)}
    if any(getattr(router.module.forward, "is_steered", False) for router in routers.values()):
        raise InputError("steering: the model is steered already; leave that context first")
    kind = plugins.load(MODES, steering.mode, "steering.mode").MODE
    return [kind(routers[layer], steering) for layer in steering.experts]


def _prove(model: "PreTrainedModel", modes: list[Mode]) -> None:
    """Run a few tokens through the model with every steered router watched; raise SteeringError unless all moved."""
    reached = set()

    def proven(mode: Mode) -> Forward:
        layer, original = mode.router.layer, mode.router.module.forward
        unsteered = Mode(mode.router, mode.steering)

        def forward(*args: Any, **kwargs: Any) -> Any:
            plain, linear = steered(unsteered, original, args, kwargs)
            output, _ = steered(mode, original, args, kwargs)
            moved = mode.router.read(output)
            if fault := mode.fault(linear, mode.router.read(plain), moved):
                raise SteeringError(f"layer {layer}: {fault}")
            if mode.undone(moved.chosen).any():
                raise SteeringError(f"layer {layer}: mode {mode.steering.mode} is undone by {UNDOING}")
            reached.add(layer)
            return output

        return forward

    device = model.get_input_embeddings().weight.device
    probe = torch.linspace(0, model.config.vocab_size - 1, PROBE_TOKENS, device=device).long()[None]
    with replaced({mode.router.module: proven(mode) for mode in modes}), torch.no_grad(), torch.random.fork_rng():
        model(input_ids=probe, use_cache=False)
    if missed := [mode.router.layer for mode in modes if mode.router.layer not in reached]:
        raise SteeringError(f"the routers of layers {missed} were not reached: the model bypasses their forward")
