"""A sample that no batching changes: what is in it is decided by a hash of what each member is."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsmoe.analysis.passages import Passage, domains_of

Keys = NDArray[np.uint64]
LAST = np.iinfo(np.uint64).max


def passage_keys(passages: Sequence[Passage]) -> Keys:
    """A hash of each passage [passages]: of its domain, its id and what it says."""
    texts = ("\n".join((p.domain, p.id, p.text)).encode() for p in passages)
    return np.array([int.from_bytes(hashlib.sha256(text).digest()[:8]) for text in texts], dtype=np.uint64)


def token_keys(key_N: Keys, position_N: NDArray[np.int64]) -> Keys:
    """A hash of each token [tokens]: of its passage's key and its position there.

    The mixing of SplitMix64 (Steele, Lea and Flood 2014, OOPSLA).
    """
    mixed = key_N + (position_N.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def sampled_passages(passages: Sequence[Passage], most: int) -> list[int]:
    """Indices of the passages with the lowest hashes, `most` of each domain."""
    keys = passage_keys(passages)
    taken: dict[str, list[int]] = {domain: [] for domain in domains_of(passages)}
    for index in np.argsort(keys, kind="stable").tolist():
        of_domain = taken[passages[index].domain]
        if len(of_domain) < most:
            of_domain.append(index)
    return [index for of_domain in taken.values() for index in of_domain]


class TokenSample:
    """Of every domain the `most` tokens with the lowest keys among those seen so far, each in a slot of its own."""

    def __init__(self, domains: int, most: int) -> None:
        self._keys_DS = np.full((domains, most), LAST, dtype=np.uint64)

    def take(self, key_N: Keys, domain_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which of these tokens enter the sample, and the slots that they take from none or from others."""
        entering, taken = [], []
        most = self._keys_DS.shape[1]
        for domain in np.unique(domain_N):
            candidates = np.flatnonzero(domain_N == domain)
            keys = np.concatenate([self._keys_DS[domain], key_N[candidates]])
            lowest = np.argsort(keys, kind="stable")[:most]
            free = np.setdiff1d(np.arange(most), lowest)
            new = candidates[lowest[lowest >= most] - most]
            self._keys_DS[domain, free] = key_N[new]
            entering.append(new)
            taken.append(free + domain * most)
        return np.concatenate(entering or [np.empty(0, np.int64)]), np.concatenate(taken or [np.empty(0, np.int64)])

    @property
    def slots(self) -> NDArray[np.int64]:
        """The slots that are taken, domain by domain in the order of their keys."""
        most = self._keys_DS.shape[1]
        order_DS = np.argsort(self._keys_DS, axis=1, kind="stable")
        slots_DS = order_DS + np.arange(len(order_DS))[:, None] * most
        found: NDArray[np.int64] = slots_DS[np.take_along_axis(self._keys_DS, order_DS, axis=1) < LAST]
        return found
