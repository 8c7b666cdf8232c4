"""Recovery: how well scores find the experts that are known to belong to a domain."""

import torch
from scipy.stats import rankdata

from dsmoe.errors import InputError


def auroc(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """The chance that a true expert scores higher than another one; ties count half.

    `scores` and `truth` (boolean) are [layers, experts]. It is the area under the ROC curve, by way of the
    Mann-Whitney statistic (Hanley and McNeil 1982, Radiology 143:29). Raises InputError as `precision_at` does, and
    where all experts are true.
    """
    _check(scores, truth)
    if truth.all():
        raise InputError("recovery: every expert is a true one, so there is none to tell them from")
    true, others = int(truth.sum()), int((~truth).sum())
    ranks = rankdata(scores.double().numpy())[truth.flatten().numpy()]
    return float((ranks.sum() - true * (true + 1) / 2) / (true * others))


def precision_at(scores: torch.Tensor, truth: torch.Tensor, count: int) -> float:
    """The share of true experts among the `count` that score highest over all layers.

    `scores` and `truth` (boolean) are [layers, experts]. Of equals the earlier layer, then the lower index, comes
    first, as where a steering takes its experts. Raises InputError where shapes differ, scores are not finite, no
    expert is true or `count` is not one of 1 to the number of experts.
    """
    _check(scores, truth)
    if not 1 <= count <= scores.numel():
        raise InputError(f"recovery: count {count} is not one of 1 to {scores.numel()}")
    best = scores.double().flatten().argsort(descending=True, stable=True)[:count]
    return float(truth.flatten()[best].double().mean())


def _check(scores: torch.Tensor, truth: torch.Tensor) -> None:
    if scores.shape != truth.shape:
        raise InputError(f"recovery: scores are {list(scores.shape)}, the truth is {list(truth.shape)}")
    if not scores.isfinite().all():
        raise InputError("recovery: some scores are not finite")
    if not truth.any():
        raise InputError("recovery: no expert is a true one, so there is none to find")
