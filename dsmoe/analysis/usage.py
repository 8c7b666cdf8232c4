"""How often the tokens of each domain chose each expert: P(e|D)."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dsmoe.analysis.observe import Routed, Tokens


class Usage:
    """Sums of choices by domain, layer and expert."""

    def __init__(self, domains: Sequence[str], layers: Sequence[int], num_experts: int) -> None:
        self.domains, self.layers = tuple(domains), tuple(layers)
        self.counts_DLE = np.zeros((len(domains), len(layers), num_experts), dtype=np.int64)

    def add(self, tokens: Tokens, routed: Routed) -> None:
        """Count a batch's choices in one layer."""
        domains, experts = self.counts_DLE.shape[0], self.counts_DLE.shape[2]
        chosen_NK = routed.chosen_NK.cpu().numpy() + tokens.domain_N[:, None] * experts
        counts = np.bincount(chosen_NK.ravel(), minlength=domains * experts)
        self.counts_DLE[:, routed.row] += counts.reshape(domains, experts)

    @property
    def shares(self) -> NDArray[np.float64]:
        """P(e|D) [domains, layers, experts]: shares of a domain's choices in a layer, which sum to 1."""
        shares: NDArray[np.float64] = self.counts_DLE / self.counts_DLE.sum(axis=2, keepdims=True)
        return shares

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
