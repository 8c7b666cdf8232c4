"""Selection: which experts of a profile are steered."""

from collections.abc import Iterable

import numpy as np

from dsmoe.discovery.profile import ExpertProfile
from dsmoe.errors import InputError

Experts = dict[int, tuple[int, ...]]
"""Chosen experts by the model's layer."""
Window = tuple[int, int] | None
"""The first and the last layer whose experts may be chosen, both counted in; None is all."""


def best(
    profile: ExpertProfile, num_experts: int | float, layers: Window = None, within_top_k: bool = False
) -> Experts:
    """The `num_experts` best-scored experts over all layers (DSMoE, arXiv 2604.05267, Eq. 9).

    An integer is a count, a float below 1 a fraction of all experts; ties go to the lower layer and index.
    `within_top_k` passes over experts of a layer that has given as many as a token is routed to. Raises InputError for
    more experts than there are to choose from, and for a window without a router.
    """
    rows = _rows(profile, layers)
    width = profile.scores.shape[1]
    most = min(profile.top_k, width) if within_top_k else width
    count = expert_count(num_experts, len(rows) * width, layers)
    if count > len(rows) * most:
        raise InputError(
            f"steering.num_experts: {count} experts are more than top-{profile.top_k} in each of {len(rows)} layers"
        )
    chosen: dict[int, list[int]] = {}
    order = np.argsort(-profile.scores[rows].flatten().double().numpy(), kind="stable")
    for position in order.tolist():
        of_layer = chosen.setdefault(profile.layers[rows[position // width]], [])
        if len(of_layer) < most:
            of_layer.append(position % width)
            count -= 1
        if not count:
            break
    return _sorted(chosen.items())


def until_mass(profile: ExpertProfile, top_p: float, layers: Window = None) -> Experts:
    """In each layer the best experts, as few as there can be whose scores sum up to `top_p` (ESFT, arXiv 2407.01906).

    Scores are shares: each layer's sum up to 1. Raises InputError where they do not, and for a window without a router.
    """
    chosen = []
    for row in _rows(profile, layers):
        scores = profile.scores[row].double().numpy()
        if (scores < 0).any() or abs(scores.sum() - 1) > 1e-6:
            raise InputError(f"steering.top_p: scores by rule {profile.rule} are no shares of a layer")
        order = np.argsort(-scores, kind="stable")
        reached = np.cumsum(scores[order])
        count = int(np.searchsorted(reached, min(top_p, reached[-1]) - 1e-12)) + 1
        chosen.append((profile.layers[row], order[:count].tolist()))
    return _sorted(chosen)


def in_window(layer: int, layers: Window) -> bool:
    """Whether the layer lies in the window."""
    return layers is None or layers[0] <= layer <= layers[1]


def expert_count(num_experts: int | float, total: int, layers: Window = None) -> int:
    """`num_experts` of `total` as a count; a float below 1 is a fraction, at least one expert.

    `total` counts the experts in the window `layers`. Raises InputError where it cannot be.
    """
    if total == 0 and layers is not None:
        raise InputError(f"steering.layers: no layer from {layers[0]} to {layers[1]} has a router")
    count = max(1, round(num_experts * total)) if 0 < num_experts < 1 else num_experts
    if not 1 <= count <= total or count != int(count):
        raise InputError(
            f"steering.num_experts: {num_experts} is neither a count from 1 to {total} nor a fraction between 0 and 1"
        )
    return int(count)


def _rows(profile: ExpertProfile, layers: Window) -> list[int]:
    rows = [row for row, layer in enumerate(profile.layers) if in_window(layer, layers)]
    if not rows and layers is not None:
        raise InputError(f"steering.layers: no layer from {layers[0]} to {layers[1]} has a router")
    return rows


def _sorted(chosen: Iterable[tuple[int, list[int]]]) -> Experts:
    return {layer: tuple(sorted(experts)) for layer, experts in chosen if experts}
