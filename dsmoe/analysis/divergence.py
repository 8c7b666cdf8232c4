"""How far apart distributions over experts are. Experts are the last axis everywhere."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from dsmoe.analysis.usage import shares

Shares = NDArray[np.float64]


def jensen_shannon(p: Shares, q: Shares) -> Shares:
    """Jensen–Shannon divergence in bits, 0 to 1 (Lin 1991, IEEE Trans. Inf. Theory 37:145)."""
    middle = (p + q) / 2
    bits: Shares = (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=-1) / (2 * np.log(2))
    return np.maximum(bits, 0.0)


def from_the_rest(counts_DLE: NDArray[Any]) -> Shares:
    """Each domain's divergence in bits from all other domains pooled, [..., D, L], of counts [..., D, L, E]."""
    rest = counts_DLE.sum(axis=-3, keepdims=True) - counts_DLE
    return jensen_shannon(shares(counts_DLE), shares(rest))


def top_k_set(shares_E: Shares, top_k: int) -> NDArray[np.bool_]:
    """The `top_k` experts with the largest shares, as a mask; of equals the lower index comes first."""
    return _ranks(shares_E) < top_k


def top_p_set(shares_E: Shares, top_p: float) -> NDArray[np.bool_]:
    """The smallest set of experts that together have a share of `top_p`, as a mask; ties as for `top_k_set`."""
    descending = -np.sort(-shares_E, axis=-1, kind="stable")
    before = np.cumsum(descending, axis=-1) - descending
    # Shares that sum to top_p but for rounding have reached it.
    needed = (before < top_p - 1e-12).sum(axis=-1, keepdims=True)
    return _ranks(shares_E) < needed


def jaccard(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> Shares:
    """Of the experts in either set, the share in both. Neither may be empty."""
    return np.divide((one & other).sum(axis=-1), (one | other).sum(axis=-1), dtype=np.float64)


def _ranks(shares_E: Shares) -> NDArray[np.intp]:
    """Each expert's place by its share, from 0 for the largest."""
    return np.argsort(-shares_E, axis=-1, kind="stable").argsort(axis=-1, kind="stable")
