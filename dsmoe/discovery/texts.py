"""What experts are discovered from: every record's text as tokens, and which of them are counted."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dsmoe.domains.prompts import discovery_prompt
from dsmoe.domains.records import Record
from dsmoe.errors import InputError
from dsmoe.models.continuation import greedy_continuation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Span = Literal["prompt", "question", "options", "generated"]
"""Which tokens are counted: of the whole prompt, of a part of it, or those that the model generates after it."""


@dataclass(frozen=True, slots=True)
class Text:
    """One record's tokens; those from `start` to `stop` are counted, the others are only read."""

    ids: list[int]
    start: int
    stop: int

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Which tokens are counted, [tokens]."""
        at = np.arange(len(self.ids))
        return (self.start <= at) & (at < self.stop)


class Texts(Sequence[Text]):
    """The texts of records; tokenised anew whenever asked for, so that memory does not grow with them.

    Generated text is the model's greedy continuation of the prompt, and is kept. Raises InputError for a span that is
    none, a tokenizer that cannot say where tokens lie, and a text longer than the model's context.
    """

    def __init__(
        self, model: "PreTrainedModel", tokenizer: Any, records: Sequence[Record], span: Span, max_new_tokens: int
    ) -> None:
        if span not in get_args(Span):
            raise InputError(f"discovery.span: {span!r} is not one of {', '.join(get_args(Span))}")
        if span in ("question", "options") and not tokenizer.is_fast:
            raise InputError(f"discovery.span: {span} wants a fast tokenizer, which says where its tokens lie")
        self._records, self._tokenizer, self._span = records, tokenizer, span
        more = max_new_tokens if span == "generated" else 0
        self.lengths = [len(self._prompt(record)) for record in records]
        longest = max(range(len(records)), key=lambda index: self.lengths[index])
        context = getattr(model.config, "max_position_embeddings", None)
        if context is not None and self.lengths[longest] + more > context:
            new = f" and {more} new ones" if more else ""
            raise InputError(
                f"discovery: record {records[longest].id!r} has a prompt of {self.lengths[longest]} tokens{new}; the "
                f"model's context holds {context}"
            )
        self._generated: list[list[int]] = []
        if span == "generated":
            self._generated = [greedy_continuation(model, tokenizer, self._prompt(record), more) for record in records]
            self.lengths = [length + len(new) for length, new in zip(self.lengths, self._generated, strict=True)]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        record = self._records[index]
        ids = self._prompt(record)
        if self._span == "prompt":
            return Text(ids, 0, len(ids))
        if self._span == "generated":
            return Text(ids + self._generated[index], len(ids), self.lengths[index])
        prompt, cut = discovery_prompt(record), len(record.question)
        first, last = (0, cut) if self._span == "question" else (cut, prompt.rindex("\n"))
        offsets = self._tokenizer(prompt, return_offsets_mapping=True).offset_mapping
        inside = [at for at, (begin, end) in enumerate(offsets) if first < end and begin < last and begin < end]
        return Text(ids, inside[0], inside[-1] + 1)

    def _prompt(self, record: Record) -> list[int]:
        ids: list[int] = self._tokenizer(discovery_prompt(record)).input_ids
        return ids


class Markers:
    """Which tokens belong to the texts of markers; a token's own text is looked up once an id."""

    def __init__(self, tokenizer: Any, markers: Iterable[str]) -> None:
        self.texts = tuple(markers)
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> NDArray[np.bool_]:
        """For every marker, the tokens of every place where its text stands: [markers, tokens]."""
        found = np.zeros((len(self.texts), len(ids)), dtype=np.bool_)
        if not self.texts:
            return found
        pieces = [self._piece(token) for token in ids]
        ends = np.cumsum([len(piece) for piece in pieces])
        text = "".join(pieces)
        for row, marker in enumerate(self.texts):
            for begin in _places(text, marker):
                first, last = np.searchsorted(ends, [begin, begin + len(marker) - 1], side="right")
                found[row, first : last + 1] = True
        return found

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            piece = self._tokenizer.decode([token])
            # Decoders of SentencePiece may drop the space that a text begins with.
            name = str(self._tokenizer.convert_ids_to_tokens(token))
            dropped = (len(name) - len(name.lstrip("▁"))) - (len(piece) - len(piece.lstrip(" ")))
            self._pieces[token] = " " * dropped + piece
        return self._pieces[token]


def _places(text: str, marker: str) -> Iterator[int]:
    at = text.find(marker)
    while at >= 0:
        yield at
        at = text.find(marker, at + 1)
