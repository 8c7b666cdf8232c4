"""Overlap: how alike the experts are that different domains use, and which of them nearly all domains use.

Shapes: D domains, L layers with a router, E experts, Q pairs of domains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dsmoe.analysis.divergence import jaccard, jensen_shannon, top_k_set, top_p_set
from dsmoe.analysis.usage import Usage

COMMITTEE = 0.8
"""The share of the domains whose top-p sets an expert of the committee is in."""


@dataclass(frozen=True, eq=False)
class Overlap:
    """Every pair of domains layer by layer, each [Q, L].

    `js_distance` is the root of the Jensen–Shannon divergence in bits, a metric from 0 to 1 (Endres and Schindelin
    2003, IEEE Trans. Inf. Theory 49:1858). The top-K set of a domain is its K most chosen experts of a layer, K as many
    as a token is routed to; its top-p set the smallest that takes the share top_p of its choices.
    """

    pairs: Sequence[tuple[str, str]]
    layers: Sequence[int]
    js_distance: NDArray[np.float64]
    jaccard_top_k: NDArray[np.float64]
    jaccard_top_p: NDArray[np.float64]

    @classmethod
    def of(cls, usage: Usage, top_k: int, top_p: float) -> "Overlap":
        """From the choices of each domain."""
        shares = usage.shares
        one, other = np.array(list(combinations(range(len(usage.domains)), 2))).T
        by_k, by_p = top_k_set(shares, top_k), top_p_set(shares, top_p)
        return cls(
            list(combinations(usage.domains, 2)),
            usage.layers,
            np.sqrt(jensen_shannon(shares[one], shares[other])),
            jaccard(by_k[one], by_k[other]),
            jaccard(by_p[one], by_p[other]),
        )

    @property
    def measures(self) -> dict[str, NDArray[np.float64]]:
        """By their names in the table."""
        return {name: getattr(self, name) for name in ("js_distance", "jaccard_top_k", "jaccard_top_p")}

    def table(self) -> pa.Table:
        """A row a pair and layer, and, with null for the layer, one for its mean over layers."""
        pairs = np.array(self.pairs)
        of_layers = np.repeat(pairs, len(self.layers), axis=0)
        names = np.concatenate([pairs, of_layers])
        return pa.table(
            {
                "domain_a": names[:, 0],
                "domain_b": names[:, 1],
                "layer": pa.array([None] * len(pairs) + list(self.layers) * len(pairs), pa.int64()),
                **{name: np.concatenate([of.mean(axis=1), of.ravel()]) for name, of in self.measures.items()},
            }
        )

    def depth(self) -> list[dict[str, float]]:
        """Each layer's means over pairs."""
        return [
            {"layer": layer, **{name: float(of[:, row].mean()) for name, of in self.measures.items()}}
            for row, layer in enumerate(self.layers)
        ]


@dataclass(frozen=True, eq=False)
class Committee:
    """The experts in the top-p sets of at least 80% of the domains.

    `members_LE` marks them, `domains_LE` counts the domains whose set each expert is in, and `shares_LE` is the share
    of a layer's choices that each takes, the mean over domains.
    """

    layers: Sequence[int]
    members_LE: NDArray[np.bool_]
    domains_LE: NDArray[np.int64]
    shares_LE: NDArray[np.float64]

    @classmethod
    def of(cls, usage: Usage, top_p: float) -> "Committee":
        """From the choices of each domain."""
        shares = usage.shares
        domains_LE = top_p_set(shares, top_p).sum(axis=0)
        members_LE = domains_LE >= COMMITTEE * len(usage.domains) - 1e-9
        return cls(usage.layers, members_LE, domains_LE, shares.mean(axis=0))

    def table(self) -> pa.Table:
        """A row a member."""
        rows, experts = self.members_LE.nonzero()
        return pa.table(
            {
                "layer": np.array(self.layers)[rows],
                "expert": experts,
                "domains": self.domains_LE[rows, experts],
                "share": self.shares_LE[rows, experts],
            }
        )

    def by_layer(self) -> list[dict[str, float]]:
        """Each layer's number of members, and the share of choices that they take together."""
        return [
            {"layer": layer, "members": int(members.sum()), "share": float(shares[members].sum())}
            for layer, members, shares in zip(self.layers, self.members_LE, self.shares_LE, strict=True)
        ]
