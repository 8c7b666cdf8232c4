"""Routing counts: how often each expert was chosen, and by which tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, eq=False)
class RoutingCounts:
    """Tokens that chose each expert: int64 [layers, experts], shared experts left out.

    `important` counts the important tokens S, `unimportant` the other real tokens C, `special` those that are in
    neither: special tokens and white space. `gate_weights` (float64, the same shape) sums the weights that the router
    gave the expert over the real tokens that chose it. `markers` counts, for each marker, the tokens of its text.
    """

    important: torch.Tensor
    unimportant: torch.Tensor
    special: torch.Tensor
    gate_weights: torch.Tensor
    markers: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def total(self) -> torch.Tensor:
        """n_e = n_e^S + n_e^C, [layers, experts]: real tokens."""
        return self.important + self.unimportant


def tokens_a_layer(counts_LE: torch.Tensor, top_k: int) -> torch.Tensor:
    """How many tokens such counts are of, float64 [layers, 1]: each token chose `top_k` experts of every layer."""
    return counts_LE.sum(dim=1, keepdim=True).double() / top_k
