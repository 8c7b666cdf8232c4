"""How likely a model finds each option of a question: the score by which evaluation chooses an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from dsmoe.domains.prompts import Scoring, evaluation_prompt
from dsmoe.domains.records import Record


@dataclass(frozen=True, slots=True)
class Continuation:
    """Token ids of a context and its continuation, which begins at `start`."""

    ids: list[int]
    start: int


def encode(tokenizer: Any, context: str, continuation: str) -> Continuation:
    """The tokens that lm-eval would score: encoded as one text, cut where the context alone would end."""
    return Continuation(tokenizer.encode(context + continuation), len(tokenizer.encode(context)))


def accuracy(
    model: PreTrainedModel, tokenizer: Any, records: Sequence[Record], scoring: Scoring, batch_size: int
) -> float:
    """The share of records whose right option has the highest summed log-likelihood; the first of equals counts."""
    options = []
    for record in records:
        context, continuations = evaluation_prompt(record, scoring)
        options.append([encode(tokenizer, context, continuation) for continuation in continuations])
    scores = iter(log_likelihoods(model, [option for each in options for option in each], batch_size))
    right = 0
    for record, each in zip(records, options, strict=True):
        likelihoods = [next(scores) for _ in each]
        right += likelihoods.index(max(likelihoods)) == record.answer
    return right / len(records)


@torch.no_grad()
def log_likelihoods(model: PreTrainedModel, continuations: Sequence[Continuation], batch_size: int) -> list[float]:
    """The summed log-likelihood, in nats, of each continuation given its context."""
    device = model.device
    scores = [0.0] * len(continuations)
    # Neighbours of one length pad each other least.
    order = sorted(range(len(continuations)), key=lambda index: len(continuations[index].ids))
    for first in range(0, len(order), batch_size):
        indices = order[first : first + batch_size]
        batch = [continuations[index] for index in indices]
        width = max(len(item.ids) for item in batch)
        ids_BT = torch.tensor([item.ids + [0] * (width - len(item.ids)) for item in batch], device=device)
        start_B, length_B = torch.tensor([[item.start, len(item.ids)] for item in batch], device=device).T
        position_T = torch.arange(width, device=device)
        real_BT = position_T < length_B[:, None]
        logits = model(input_ids=ids_BT, attention_mask=real_BT.long(), use_cache=False).logits[:, :-1]
        token_BT = logits.float().log_softmax(dim=-1).gather(2, ids_BT[:, 1:, None].to(logits.device))[..., 0]
        scored_BT = (real_BT & (position_T >= start_B[:, None]))[:, 1:].to(logits.device)
        for index, score in zip(indices, token_BT.where(scored_BT, 0.0).sum(dim=1).tolist(), strict=True):
            scores[index] = score
    return scores
