"""A model as it was: whatever a block of code does to it, nothing of it is left afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import GenerationConfig, PreTrainedConfig


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put the model back when the block ends, also by an exception.

    What comes back: the tree of modules with their classes, attributes and hooks, the order and identity of the
    parameters, their `requires_grad` and `grad`, and the model's configs. Values written into a weight in place are
    not noticed: nothing is copied.
    """
    modules = list(model.modules())
    configs = {
        id(value): value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, PreTrainedConfig | GenerationConfig)
    }
    before = [_Before(thing) for thing in (*modules, *configs.values())]
    gradients = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for thing in before:
            thing.put_back()
        for parameter, requires_grad, grad in gradients:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


class _Before:
    """An object's class and attributes, and what the dictionaries among these held."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing
        self.type = type(thing)
        self.attributes = dict(vars(thing))
        self.entries = {name: dict(value) for name, value in self.attributes.items() if isinstance(value, dict)}

    def put_back(self) -> None:
        # torch parametrizes a module by giving it a class of its own.
        if type(self.thing) is not self.type:
            self.thing.__class__ = self.type
        for name, entries in self.entries.items():
            # The same dictionaries again, not copies: the handles of hooks refer to them.
            self.attributes[name].clear()
            self.attributes[name].update(entries)
        vars(self.thing).clear()
        vars(self.thing).update(self.attributes)
