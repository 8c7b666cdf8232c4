"""How often the tokens of each domain chose each expert: P(e|D)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from dsmoe.analysis.observe import Routed, Tokens

TABLE = "usage.parquet"


def counted(kind_N: NDArray[np.int64], chosen_NK: torch.Tensor, kinds: int, experts: int) -> NDArray[np.int64]:
    """How often tokens of each kind, such as a domain, chose each expert: [kinds, experts]."""
    places_NK = chosen_NK.cpu().numpy() + kind_N[:, None] * experts
    return np.bincount(places_NK.ravel(), minlength=kinds * experts).reshape(kinds, experts)


def shares(counts_E: NDArray[Any]) -> NDArray[np.float64]:
    """Counts [..., experts] as shares of the choices, which sum to 1 over the experts."""
    return np.divide(counts_E, counts_E.sum(axis=-1, keepdims=True), dtype=np.float64)


class Usage:
    """Sums of choices by domain, layer and expert."""

    def __init__(self, domains: Sequence[str], layers: Sequence[int], num_experts: int) -> None:
        self.domains, self.layers = tuple(domains), tuple(layers)
        self.counts_DLE = np.zeros((len(domains), len(layers), num_experts), dtype=np.int64)

    def add(self, tokens: Tokens, routed: Routed) -> None:
        """Count a batch's choices in one layer."""
        domains, _, experts = self.counts_DLE.shape
        self.counts_DLE[:, routed.row] += counted(tokens.domain_N, routed.chosen_NK, domains, experts)

    @property
    def shares(self) -> NDArray[np.float64]:
        """P(e|D) [domains, layers, experts]: shares of a domain's choices in a layer, which sum to 1."""
        return shares(self.counts_DLE)

    def table(self) -> pa.Table:
        """A row a domain, layer and expert: how many tokens chose it, and their share of the domain's choices."""
        domain, row, expert = (index.ravel() for index in np.indices(self.counts_DLE.shape))
        return pa.table(
            {
                "domain": np.array(self.domains)[domain],
                "layer": np.array(self.layers)[row],
                "expert": expert,
                "tokens": self.counts_DLE.ravel(),
                "share": self.shares.ravel(),
            }
        )
