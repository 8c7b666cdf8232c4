"""Discovery: from a domain's records to every expert's routing counts and scores."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dsmoe.discovery.profile import ExpertProfile
from dsmoe.discovery.rule import rule_of
from dsmoe.discovery.saliency import batches_by_length, salient_batches
from dsmoe.discovery.tally import Batch, Tally
from dsmoe.discovery.texts import Markers, Span, Text, Texts
from dsmoe.discovery.tokens import TokenKinds, read_stop_words
from dsmoe.domains.records import Record, canonical_order
from dsmoe.errors import InputError
from dsmoe.models.routers import decoder_layers, find_routers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEAST_IMPORTANT_SHARE = 0.5
log = logging.getLogger(__name__)


def discover(
    model: "PreTrainedModel",
    tokenizer: Any,
    records: Iterable[Record],
    rule: str = "dsmoe",
    quantile: float = 0.15,
    stop_words: str | Iterable[str] = "english",
    *,
    span: Span = "prompt",
    max_new_tokens: int = 256,
    markers: Iterable[str] = ("Answer:",),
    contrast: ExpertProfile | None = None,
    batch_tokens: int = 4096,
    checkpointing: bool | None = None,
    seed: int = 0,
    folder: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExpertProfile:
    """Score the experts of `model` for the domain of `records` (DSMoE, arXiv 2604.05267, Eq. 5 to 8).

    A token is important if its saliency lies strictly above the `quantile` of all real tokens' pooled saliencies, and
    it is neither a stop word nor punctuation. `span` says which tokens are counted: those of the `prompt`, of its
    `question` or `options`, or those `generated` after it, greedily, at most `max_new_tokens`. Tokens of the texts in
    `markers` are counted apart. `contrast` is the profile of other domains, for rules that want one.

    Tokens' choices are spilled to `folder` (a temporary one by default), so that memory grows by one float a token;
    `checkpointing` saves memory in the backward pass, by default for large models. `progress(done, total)` is called
    with numbers of prompts.

    Raises InputError for no records, an unknown rule, a rule that lacks what it wants, or a prompt longer than the
    model's context.
    """
    records = canonical_order(records)
    if not records:
        raise InputError("discovery: there are no records to discover from")
    if not 0 <= quantile < 1:
        raise InputError(f"discovery.quantile: {quantile} is not in 0 ≤ quantile < 1")
    if rule_of(rule).contrasts and contrast is None:
        raise InputError(f"discovery.rule: {rule} holds the domain against others: it wants a profile of a contrast")
    words = read_stop_words(stop_words)
    routers = find_routers(model)
    shape = (len(routers), routers[0].num_experts, routers[0].top_k)
    texts = Texts(model, tokenizer, records, span, max_new_tokens)
    with tempfile.TemporaryDirectory(dir=folder) as spill:
        passed = _pass(model, texts, batch_tokens, checkpointing, progress)
        tally = Tally(Path(spill), passed, shape, TokenKinds(tokenizer, words), Markers(tokenizer, markers))
        counts, report = tally.counts(quantile, len(records))
    if report.important_share < LEAST_IMPORTANT_SHARE:
        log.warning(
            "discovery: only %.0f%% of the tokens are important; below 50%% rule dsmoe ranks busy experts last",
            100 * report.important_share,
        )
    return ExpertProfile(
        scores=torch.zeros(counts.total.shape, dtype=torch.float64),
        counts=counts,
        layers=tuple(router.layer for router in routers),
        rule=rule,
        domain=", ".join(sorted({record.domain for record in records})),
        model=model.config.name_or_path,
        architecture=model.config.model_type,
        num_layers=len(decoder_layers(model)),
        top_k=routers[0].top_k,
        report=report,
        settings={"quantile": quantile, "stop_words": words, "span": span},
    ).scored(rule, contrast=contrast, seed=seed)


def _pass(
    model: "PreTrainedModel",
    texts: Texts,
    batch_tokens: int,
    checkpointing: bool | None,
    progress: Callable[[int, int], None],
) -> Iterator[Batch]:
    """Every batch of texts, once through the model."""
    batches = batches_by_length(texts.lengths, batch_tokens)
    asked: list[list[Text]] = []

    def prompts() -> Iterator[list[list[int]]]:
        for batch in batches:
            asked.append([texts[index] for index in batch])
            yield [text.ids for text in asked[-1]]

    done = 0
    for found in salient_batches(model, prompts(), checkpointing):
        batch = asked.pop()
        yield batch, found
        done += len(batch)
        progress(done, len(texts))
