"""Prompt against rollout: whether a prompt's choices of experts foretell those of what the model writes after it.

Shapes: R prompts and their continuations, L layers with a router, E experts, N counted tokens.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from dsmoe.analysis.observe import Routed, check_lengths, read
from dsmoe.analysis.passages import Passage
from dsmoe.analysis.sample import sampled_passages
from dsmoe.discovery.saliency import padded
from dsmoe.discovery.tokens import IGNORED, TokenKinds
from dsmoe.models.continuation import greedy_continuation
from dsmoe.models.routers import find_routers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROLLOUT = pa.schema(
    {
        "layer": pa.int64(),
        "own": pa.float64(),
        "same_domain": pa.float64(),
        "other_domain": pa.float64(),
        "p": pa.float64(),
    }
)


def rollout(
    model: "PreTrainedModel",
    tokenizer: Any,
    passages: Sequence[Passage],
    a_domain: int,
    new_tokens: int,
    permutations: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pa.Table:
    """`rollout.parquet`: a row a layer, from `a_domain` prompts of each domain and greedy continuations of them.

    `own` is the mean cosine between visit counts of a prompt and of its own continuation; `same_domain` and
    `other_domain` are those between a prompt and the continuations of other prompts; None where there are none. p: how
    often continuations handed out to prompts at random go with them as well as their own do. Left out are special
    tokens and white space, and prompts after which there are no others. Raises InputError, before anything is
    generated, where a prompt and its new tokens do not fit the model's context.
    """
    chosen = [passages[index] for index in sampled_passages(passages, a_domain)]
    prompts: list[list[int]] = [tokenizer(passage.text).input_ids for passage in chosen]
    check_lengths(model, chosen, [len(ids) for ids in prompts], new_tokens)
    kinds = TokenKinds(tokenizer, ())
    counts, domains = [], []
    for done, (passage, ids) in enumerate(zip(chosen, prompts, strict=True), start=1):
        new = greedy_continuation(model, tokenizer, ids, new_tokens)
        counted = kinds(np.array([*ids, *new], dtype=np.int32)) != IGNORED
        if counted[: len(ids)].any() and counted[len(ids) :].any():
            counts.append(_visits(model, [*ids, *new], counted, len(ids)))
            domains.append(passage.domain)
        progress(done, len(chosen))
    rows = [
        {"layer": router.layer, **_row([visits[:, row] for visits in counts], np.array(domains), permutations, seed)}
        for row, router in enumerate(find_routers(model))
    ]
    return pa.Table.from_pylist(rows, ROLLOUT)


def _visits(model: "PreTrainedModel", ids: list[int], counted: NDArray[np.bool_], prompt: int) -> NDArray[np.float64]:
    """How often each expert was chosen, in the first `prompt` tokens and after them [2, L, E]."""
    routers = find_routers(model)
    visits = np.zeros((2, len(routers), max(router.num_experts for router in routers)))
    kept_N = np.flatnonzero(counted)

    def tell(routed: Routed) -> None:
        chosen_NK = routed.chosen_NK.cpu().numpy()
        for part, among in enumerate((kept_N < prompt, kept_N >= prompt)):
            visits[part, routed.row] += np.bincount(chosen_NK[among].ravel(), minlength=visits.shape[2])

    ids_BT, real_BT = padded([ids], model.device)
    read(model, routers, ids_BT, real_BT, torch.from_numpy(kept_N).to(model.device), tell)
    return visits


def _row(
    visits_R2E: Sequence[NDArray[np.float64]], domains: NDArray[np.str_], permutations: int, seed: int
) -> dict[str, float | None]:
    if len(visits_R2E) < 2:
        return dict.fromkeys(("own", "same_domain", "other_domain", "p"))
    visits = np.array(visits_R2E)
    directions = visits / np.linalg.norm(visits, axis=2, keepdims=True)
    cosine_RR = directions[:, 0] @ directions[:, 1].T
    same = domains == domains[:, None]
    others = same & ~np.eye(len(same), dtype=np.bool_)
    own = float(np.trace(cosine_RR) / len(cosine_RR))
    generator = np.random.default_rng(seed)
    everyone = np.arange(len(cosine_RR))
    null = np.array([cosine_RR[everyone, generator.permutation(everyone)].mean() for _ in range(permutations)])
    return {
        "own": own,
        "same_domain": float(cosine_RR[others].mean()) if others.any() else None,
        "other_domain": float(cosine_RR[~same].mean()) if (~same).any() else None,
        "p": (1 + int((null >= own - 1e-9).sum())) / (1 + permutations),
    }
