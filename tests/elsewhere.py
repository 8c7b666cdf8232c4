"""A second GPU for those who have none: the last layer of a model claims to lie on one, and torch's rule is kept.

Tensors of two devices that meet end in an error, as they do on GPUs, unless one of them was moved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import PreTrainedModel

from dsmoe.models.routers import decoder_layers

FIRST, SECOND = torch.device("cpu"), torch.device("cpu:1")


class Elsewhere(torch.Tensor):
    """A tensor that claims to lie on the second GPU."""


class TwoDevices(TorchFunctionMode):
    """What a tensor's class says is where it lies."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        places = {where(one) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor) and one.dim()}
        named = {value for value in (*args[1:], *kwargs.values()) if isinstance(value, torch.device)}
        with torch._C.DisableTorchFunctionSubclass():
            if func == torch.Tensor.device.__get__:
                return where(args[0])
            if func is torch.Tensor.as_subclass:
                return func(*args, **kwargs)
            if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], torch.Tensor):
                named = {where(args[1])}
            if func is torch.Tensor.cpu:
                named = {FIRST}
            if func in (torch.Tensor.to, torch.Tensor.cpu) and named:
                places, args = named, (place(args[0], FIRST), *args[1:])
            elif len(places) > 1:
                raise RuntimeError(f"{func.__name__}: expected all tensors to be on the same device")
            args, kwargs = tree_map_only(torch.device, lambda device: FIRST, (args, kwargs))
            found = func(*args, **kwargs)
            there = SECOND in places | named
            return tree_map_only(torch.Tensor, lambda tensor: place(tensor, SECOND), found) if there else found


def where(tensor: torch.Tensor) -> torch.device:
    """The device that the tensor claims to lie on."""
    return SECOND if isinstance(tensor, Elsewhere) else FIRST


def place(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same numbers, on that device."""
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Elsewhere if device == SECOND else torch.Tensor)


@contextmanager
def spread(model: PreTrainedModel) -> Iterator[None]:
    """The last layer lies on the second GPU; what enters and leaves it is moved, as accelerate does."""
    layer = decoder_layers(model)[-1]

    def enter(module: Any, args: Any, kwargs: Any) -> Any:
        return tree_map_only(torch.Tensor, lambda tensor: place(tensor, SECOND), (args, kwargs))

    def leave(module: Any, args: Any, output: Any) -> Any:
        return tree_map_only(torch.Tensor, lambda tensor: place(tensor, FIRST), output)

    for module in layer.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                is_weight, there = name in module._parameters, place(tensor.detach(), SECOND)
                there._is_param = is_weight
                owned: dict[str, Any] = module._parameters if is_weight else module._buffers
                owned[name] = there
    layer.register_forward_pre_hook(enter, with_kwargs=True)
    layer.register_forward_hook(leave)
    with TwoDevices():
        yield
