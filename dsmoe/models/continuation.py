"""What a model goes on to write after a prompt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def greedy_continuation(
    model: "PreTrainedModel", tokenizer: Any, prompt: Sequence[int], max_new_tokens: int
) -> list[int]:
    """The ids of the tokens that a model finds likeliest after a prompt, up to and with its end.

    Alone, since another batch might turn a near tie.
    """
    ids = torch.tensor([list(prompt)], device=model.device)
    ends = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with torch.no_grad():
        (sequence,) = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=ends,
        ).tolist()
    new: list[int] = sequence[len(prompt) :]
    return new
