"""Load: how evenly a layer's experts are used, and the direction that all its tokens share.

Shapes: D domains, L layers with a router, E experts, H hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from dsmoe.analysis.observe import Routed, Tokens
from dsmoe.analysis.usage import Usage, shares

HOT = 3.0
"""An expert is hot that takes at least so many times the share that each would take if all were used alike."""


def gini(shares_E: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gini coefficient over the experts: 0 where all are used alike, 1 − 1/E where one takes all."""
    experts = shares_E.shape[-1]
    weights = 2 * np.arange(1, experts + 1) - experts - 1
    found: NDArray[np.float64] = (np.sort(shares_E, axis=-1) * weights).sum(axis=-1) / (experts * shares_E.sum(axis=-1))
    return found


@dataclass(frozen=True, eq=False)
class Load:
    """How evenly experts are used, by domain and then of all domains together: each [D + 1, L].

    `cv` is the coefficient of variation (standard deviation over mean), `dead` counts the experts that were never
    chosen, `hot` those that take at least three times the uniform share.
    """

    domains: Sequence[str | None]
    layers: Sequence[int]
    gini: NDArray[np.float64]
    cv: NDArray[np.float64]
    dead: NDArray[np.int64]
    hot: NDArray[np.int64]

    @classmethod
    def of(cls, usage: Usage) -> "Load":
        """From the choices of each domain."""
        counts = np.concatenate([usage.counts_DLE, usage.counts_DLE.sum(axis=0, keepdims=True)])
        of = shares(counts)
        experts = of.shape[-1]
        return cls(
            (*usage.domains, None),
            usage.layers,
            gini(of),
            of.std(axis=-1) * experts,
            (counts == 0).sum(axis=-1),
            (of * experts >= HOT - 1e-12).sum(axis=-1),
        )

    def table(self) -> pa.Table:
        """A row a domain and layer; null for the domain is all of them together."""
        return pa.table(
            {
                "domain": pa.array(np.repeat(np.array(self.domains, dtype=object), len(self.layers)), pa.string()),
                "layer": np.tile(self.layers, len(self.domains)),
                **{name: getattr(self, name).ravel() for name in ("gini", "cv", "dead", "hot")},
            }
        )

    def by_layer(self) -> list[dict[str, float]]:
        """Each layer's figures of all domains together."""
        return [
            {
                "layer": layer,
                "gini": float(self.gini[-1, row]),
                "cv": float(self.cv[-1, row]),
                "dead": int(self.dead[-1, row]),
                "hot": int(self.hot[-1, row]),
            }
            for row, layer in enumerate(self.layers)
        ]


class Direction:
    """The direction that a layer's tokens share, and whether its router heeds it.

    `mean_energy` is ‖mean h‖² / mean ‖h‖², 0 to 1: how much of the hidden states h is their mean. `spread` is the root
    mean square over experts of cos(w_e − mean w, mean h), where w are the router's rows: what all rows share moves no
    choice. Random rows give about 1/√H, `spread_random`; less means that the router has turned away from what tokens
    share, as load balancing makes it (arXiv 2604.09780).
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self._layers = tuple(layers)
        self._sums: dict[int, torch.Tensor] = {}
        self._squares = np.zeros(len(layers))
        self._tokens = 0
        self._rows: dict[int, torch.Tensor] = {}

    def add(self, tokens: Tokens, routed: Routed) -> None:
        """Add a batch's hidden states in one layer to the sums."""
        summed_H = routed.hidden_NH.double().sum(dim=0).cpu()
        if routed.row not in self._sums:
            self._sums[routed.row] = torch.zeros_like(summed_H)
            self._rows[routed.row] = routed.router.weight.double().cpu()
        self._sums[routed.row] += summed_H
        self._squares[routed.row] += float(routed.hidden_NH.double().square().sum())
        self._tokens += len(tokens.ids_N) if routed.row == 0 else 0

    def by_layer(self) -> list[dict[str, Any]]:
        """The three figures of each layer."""
        return [{"layer": layer, **self._of(row)} for row, layer in enumerate(self._layers)]

    def table(self) -> pa.Table:
        """A row a layer."""
        return pa.Table.from_pylist(self.by_layer())

    def _of(self, row: int) -> dict[str, float]:
        mean_H, weight_EH = self._sums[row] / self._tokens, self._rows[row]
        centred_EH = weight_EH - weight_EH.mean(dim=0)
        cosines_E = torch.cosine_similarity(centred_EH, mean_H[None], dim=1)
        return {
            "mean_energy": float(mean_H.square().sum() / (self._squares[row] / self._tokens)),
            "spread": float(cosines_E.square().mean().sqrt()),
            "spread_random": len(mean_H) ** -0.5,
        }
