"""One pass over passages: what every router was given and chose, handed on layer by layer and not kept.

Shapes: N counted tokens of a batch, H hidden width, E experts, K chosen experts.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dsmoe.analysis.passages import Passage, domains_of
from dsmoe.discovery.saliency import batches_by_length, padded
from dsmoe.discovery.tokens import IGNORED, TokenKinds
from dsmoe.errors import InputError
from dsmoe.models.routers import Router, find_routers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Tokens:
    """The counted tokens of a batch of passages: all but special tokens and white space."""

    ids_N: NDArray[np.int64]
    passage_N: NDArray[np.int64]
    """The index of the passage that each belongs to."""
    domain_N: NDArray[np.int64]
    """The index of its domain, in alphabetical order."""


@dataclass(frozen=True, eq=False)
class Routed:
    """What one router made of them; tensors are float32 and on the device of its layer."""

    row: int
    """The router's number among those of the model, from 0; `router.layer` is its decoder layer."""
    router: Router
    hidden_NH: torch.Tensor
    """The hidden states that the router was given."""
    logits_NE: torch.Tensor
    weights_NK: torch.Tensor
    chosen_NK: torch.Tensor


class Part(Protocol):
    """One kind of evidence: it takes what it needs of each layer of each batch, and keeps sums."""

    def add(self, tokens: Tokens, routed: Routed) -> None:
        """Take the routing of a batch's tokens in one layer."""
        ...


def observe(
    model: "PreTrainedModel",
    tokenizer: Any,
    passages: Sequence[Passage],
    parts: Sequence[Part],
    batch_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Read every passage once and tell every part of every layer. `progress` is called with numbers of passages.

    Texts are tokenised twice, first for their lengths, so that no more than a batch's ids are kept: memory grows by a
    number a passage. Raises InputError for a passage longer than the model's context, and RuntimeError where the model
    bypasses a router.
    """
    domain_of = {domain: index for index, domain in enumerate(domains_of(passages))}
    routers = find_routers(model)
    lengths = [len(tokenizer(passage.text).input_ids) for passage in passages]
    check_lengths(model, passages, lengths)
    kinds = TokenKinds(tokenizer, ())
    done = 0
    for batch in batches_by_length(lengths, batch_tokens):
        encoded = [tokenizer(passages[index].text).input_ids for index in batch]
        ids_BT, real_BT = padded(encoded, model.device)
        ids = np.concatenate([np.array(one, dtype=np.int32) for one in encoded])
        passage = np.repeat(batch, [len(one) for one in encoded])
        counted = kinds(ids) != IGNORED
        kept = real_BT.flatten().nonzero().squeeze(1)[torch.from_numpy(counted).to(model.device)]
        domain = np.array([domain_of[passages[index].domain] for index in passage[counted]], dtype=np.int64)
        tokens = Tokens(ids[counted].astype(np.int64), passage[counted], domain)
        read(model, routers, ids_BT, real_BT, kept, _telling(parts, tokens))
        done += len(batch)
        progress(done, len(passages))


def _telling(parts: Sequence[Part], tokens: Tokens) -> Callable[[Routed], None]:
    def tell(routed: Routed) -> None:
        for part in parts:
            part.add(tokens, routed)

    return tell


def check_lengths(model: "PreTrainedModel", passages: Sequence[Passage], lengths: Sequence[int], more: int = 0) -> None:
    """Raise InputError where a passage of so many tokens, and `more` new ones, does not fit the model's context."""
    check_context(getattr(model.config, "max_position_embeddings", None), passages, lengths, more)


def check_context(context: int | None, passages: Sequence[Passage], lengths: Iterable[int], more: int = 0) -> None:
    """The same for a context of so many tokens, None for one without an end."""
    for passage, length in zip(passages, lengths, strict=True):
        if context is not None and length + more > context:
            new = f" and {more} new ones" if more else ""
            raise InputError(
                f"analysis: passage {passage.id!r} has {length} tokens{new}; the model's context holds {context}"
            )


def read(
    model: "PreTrainedModel",
    routers: Sequence[Router],
    ids_BT: torch.Tensor,
    real_BT: torch.Tensor,
    kept_N: torch.Tensor,
    tell: Callable[[Routed], None],
) -> None:
    """One forward; `kept_N` are the counted tokens among B·T. Raises RuntimeError where a router is bypassed."""
    heard = set()

    def listen(row: int, router: Router) -> Any:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
            said = router.read(output)
            hidden = inputs[0].flatten(0, -2)
            kept = kept_N.to(hidden.device)
            tell(
                Routed(
                    row,
                    router,
                    hidden[kept].float(),
                    said.logits[kept].float(),
                    said.weights[kept].float(),
                    said.chosen[kept],
                )
            )
            heard.add(row)

        return hook

    hooks = [router.module.register_forward_hook(listen(row, router)) for row, router in enumerate(routers)]
    try:
        with torch.no_grad():
            model(input_ids=ids_BT, attention_mask=real_BT.long(), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if missing := [router.layer for row, router in enumerate(routers) if row not in heard]:
        raise RuntimeError(f"layer {missing[0]}: the model bypassed its router, so its choices cannot be observed")
