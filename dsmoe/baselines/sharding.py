"""One process of several that fine-tune together: its share of the weights and of every step's questions.

FSDP2 shards the model's weights when they are loaded, layer by layer, and the adapter's here. A layer's weights are
whole only while it computes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import ParamWrapper
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

Example = dict[str, list[int]]


def processes() -> int:
    """How many processes fine-tune together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that reports and writes."""
    return processes() == 1 or distributed.get_rank() == 0


def shard_adapter(adapter: PeftModel) -> None:
    """Leave each process its share of the adapter's weights, and so of their gradients and the optimizer's state."""
    wrappers = [module for module in adapter.modules() if isinstance(module, ParamWrapper)]
    # Two weights of one module are wrapped one in the other; the outer one's forward needs the adapters of both.
    inner = {id(wrapper.base_layer) for wrapper in wrappers}
    for wrapper in wrappers:
        if id(wrapper) not in inner:
            fully_shard(
                wrapper,
                reshard_after_forward=True,
                ignored_params={parameter for parameter in wrapper.parameters() if not parameter.requires_grad},
            )


def gathered(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The whole tensors of shares, in the first process; nothing in the others, which have to call it too."""
    found = {}
    for name, tensor in sorted(state.items()):
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if is_first():
            found[name] = whole.cpu() if isinstance(tensor, DTensor) else whole
    return found


class Share:
    """Makes a batch of this process's share of the questions that it is given."""

    def __init__(self, collate: Callable[[list[Example]], Any], ignored: int) -> None:
        self.collate = collate
        self.ignored = ignored

    def __call__(self, examples: list[Example]) -> Any:
        """Every `processes()`-th question; where there is none for this process, one that counts for nothing."""
        mine = examples[distributed.get_rank() :: processes()]
        first = examples[0]
        # All processes have to run the model, or those that do would wait for the others' weights.
        return self.collate(mine or [{**first, "labels": [self.ignored] * len(first["labels"])}])
