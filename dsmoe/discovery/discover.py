"""Discovery: from a domain's records to every expert's routing counts and scores."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from dsmoe import plugins
from dsmoe.discovery.profile import DiscoveryReport, ExpertProfile, RoutingCounts
from dsmoe.discovery.saliency import SalientBatch, batches_by_length, salient_batches
from dsmoe.discovery.tokens import CONTENT, IGNORED, TokenKinds, read_stop_words
from dsmoe.domains.prompts import discovery_prompt
from dsmoe.domains.records import Record, canonical_order
from dsmoe.errors import InputError
from dsmoe.models.routers import TIE, decoder_layers, find_routers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RULES = "dsmoe.discovery.rules"
CHUNK = 1 << 16
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
    batch_tokens: int = 4096,
    checkpointing: bool | None = None,
    seed: int = 0,
    folder: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExpertProfile:
    """Score the experts of `model` for the domain of `records` (DSMoE, arXiv 2604.05267, Eq. 5 to 8).

    A token is important if its saliency lies strictly above the `quantile` of all real tokens' pooled saliencies, and
    it is neither a stop word nor punctuation. Tokens' choices are spilled to `folder` (a temporary one by default), so
    that memory grows by one float a token; `checkpointing` saves memory in the backward pass, by default for large
    models. `progress(done, total)` is called with numbers of prompts.

    Raises InputError for no records, an unknown rule or a prompt longer than the model's context.
    """
    records = canonical_order(records)
    if not records:
        raise InputError("discovery: there are no records to discover from")
    if not 0 <= quantile < 1:
        raise InputError(f"discovery.quantile: {quantile} is not in 0 ≤ quantile < 1")
    score = plugins.load(RULES, rule, "discovery.rule").score
    words = read_stop_words(stop_words)
    routers = find_routers(model)
    with tempfile.TemporaryDirectory(dir=folder) as spill:
        passed = _pass(model, tokenizer, records, batch_tokens, checkpointing, progress)
        tokens = _Tokens(Path(spill), passed, len(routers), routers[0].top_k)
        counts, report = tokens.counts(TokenKinds(tokenizer, words), quantile, routers[0].num_experts, len(records))
    if report.important_share < LEAST_IMPORTANT_SHARE:
        log.warning(
            "discovery: only %.0f%% of the tokens are important; below 50%% rule dsmoe ranks busy experts last",
            100 * report.important_share,
        )
    return ExpertProfile(
        scores=score(counts, seed),
        counts=counts,
        layers=tuple(router.layer for router in routers),
        rule=rule,
        domain=", ".join(sorted({record.domain for record in records})),
        model=model.config.name_or_path,
        architecture=model.config.model_type,
        num_layers=len(decoder_layers(model)),
        top_k=routers[0].top_k,
        report=report,
        settings={"quantile": quantile, "stop_words": words, "seed": seed},
    )


def _pass(
    model: "PreTrainedModel",
    tokenizer: Any,
    records: Sequence[Record],
    batch_tokens: int,
    checkpointing: bool | None,
    progress: Callable[[int, int], None],
) -> Iterator[SalientBatch]:
    """Every batch of the records' prompts, once through the model."""

    def prompt(index: int) -> list[int]:
        ids: list[int] = tokenizer(discovery_prompt(records[index])).input_ids
        return ids

    lengths = [len(prompt(index)) for index in range(len(records))]
    longest = max(range(len(records)), key=lambda index: lengths[index])
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and lengths[longest] > context:
        raise InputError(
            f"discovery: record {records[longest].id!r} has a prompt of {lengths[longest]} tokens; the model's "
            f"context holds {context}"
        )
    batches = batches_by_length(lengths, batch_tokens)
    done = 0
    prompts = (list(map(prompt, batch)) for batch in batches)
    for batch, found in zip(batches, salient_batches(model, prompts, checkpointing), strict=True):
        yield found
        done += len(batch)
        progress(done, len(records))


class _Tokens:
    """All tokens of a pass: saliencies in memory, ids and choices in files of fixed-width rows."""

    def __init__(self, folder: Path, batches: Iterator[SalientBatch], num_layers: int, top_k: int) -> None:
        self._ids, self._choices = folder / "ids", folder / "choices"
        self._row = (num_layers, top_k)
        self._near_ties = 0
        saliencies: list[NDArray[np.float32]] = []
        with self._ids.open("wb") as ids, self._choices.open("wb") as choices:
            for batch in batches:
                saliencies.append(batch.saliency_N.numpy())
                _append(ids, batch.ids_N, np.int32)
                _append(choices, batch.chosen_NLK, np.uint16)
                self._near_ties += int(batch.near_tie_N.sum())
        self._saliency = np.concatenate(saliencies)

    def counts(
        self, kinds: TokenKinds, quantile: float, num_experts: int, records: int
    ) -> tuple[RoutingCounts, DiscoveryReport]:
        """Important and unimportant tokens' choices, counted [layers, experts]."""
        real = np.concatenate([kinds(ids) != IGNORED for ids in self._chunks(self._ids, np.int32, ())])
        if not real.any():
            raise InputError("discovery: the records have no token but special ones and white space")
        pool = self._saliency[real].astype(np.float64)
        threshold = float(np.quantile(pool, quantile))
        layers, _ = self._row
        found = np.zeros((2, layers * num_experts), dtype=np.int64)
        offsets = (np.arange(layers) * num_experts)[:, None]
        start = important_tokens = 0
        for ids, chosen in zip(
            self._chunks(self._ids, np.int32, ()), self._chunks(self._choices, np.uint16, self._row), strict=True
        ):
            kind = kinds(ids)
            important = (self._saliency[start : start + len(ids)] > threshold) & (kind == CONTENT)
            for row, members in enumerate((important, ~important & (kind != IGNORED))):
                found[row] += np.bincount((chosen[members] + offsets).ravel(), minlength=found.shape[1])
            important_tokens += int(important.sum())
            start += len(ids)
        important_counts, unimportant_counts = torch.from_numpy(found).view(2, layers, num_experts)
        report = DiscoveryReport(
            records=records,
            tokens=len(pool),
            important_tokens=important_tokens,
            threshold=threshold,
            tokens_near_threshold=int((np.abs(pool - threshold) <= TIE * threshold).sum()),
            choices_near_tie=self._near_ties,
        )
        return RoutingCounts(important_counts, unimportant_counts), report

    @staticmethod
    def _chunks(path: Path, dtype: type[np.generic], row: tuple[int, ...]) -> Iterator[NDArray[Any]]:
        """The file's rows in order, some tens of thousands at a time."""
        width = int(np.prod(row, dtype=int))
        with path.open("rb") as file:
            while (chunk := np.fromfile(file, dtype, CHUNK * width)).size:
                yield chunk.reshape(-1, *row)


def _append(file: BinaryIO, tensor: torch.Tensor, dtype: type[np.generic]) -> None:
    file.write(tensor.numpy().astype(dtype).tobytes())  # numpy's own tofile does not say why it could not write.
