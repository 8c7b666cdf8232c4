"""The tally of a pass: saliencies in memory, tokens and choices on disk, and from them the routing counts.

The threshold of importance needs all saliencies first, so that choices must be kept until the end of the pass.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from dsmoe.discovery.counts import RoutingCounts
from dsmoe.discovery.profile import DiscoveryReport
from dsmoe.discovery.saliency import SalientBatch
from dsmoe.discovery.texts import Markers, Text
from dsmoe.discovery.tokens import CONTENT, IGNORED, TokenKinds
from dsmoe.errors import InputError
from dsmoe.models.routers import TIE

CHUNK = 1 << 16

Batch = tuple[list[Text], SalientBatch]


class Tally:
    """All counted tokens of a pass over batches, spilled to `folder` in files of fixed-width rows."""

    def __init__(
        self,
        folder: Path,
        batches: Iterator[Batch],
        shape: tuple[int, int, int],
        kinds: TokenKinds,
        markers: Markers,
    ) -> None:
        self._layers, self._experts, top_k = shape
        self._ids, self._choices, self._row = folder / "ids", folder / "choices", (self._layers, top_k)
        self._offsets = (np.arange(self._layers) * self._experts)[:, None]
        self._kinds, self._markers = kinds, markers
        self._near_ties = 0
        self._weights = np.zeros(self._layers * self._experts)
        self._marked = np.zeros((len(markers.texts), self._layers * self._experts), dtype=np.int64)
        saliencies: list[NDArray[np.float32]] = []
        with self._ids.open("wb") as ids, self._choices.open("wb") as choices:
            for texts, batch in batches:
                counted = np.concatenate([text.counted for text in texts])
                saliencies.append(batch.saliency_N.numpy()[counted])
                _append(ids, batch.ids_N.numpy()[counted], np.int32)
                _append(choices, batch.chosen_NLK.numpy()[counted], np.uint16)
                self._near_ties += int(batch.near_tie_N.numpy()[counted].sum())
                self._weigh(texts, batch, counted)
        self._saliency = np.concatenate(saliencies)

    def _weigh(self, texts: list[Text], batch: SalientBatch, counted: NDArray[np.bool_]) -> None:
        """Add a batch's gate weights, and the choices of its markers' tokens."""
        chosen, weights = batch.chosen_NLK.numpy(), batch.weights_NLK.numpy()
        real = counted & (self._kinds(batch.ids_N.numpy()) != IGNORED)
        self._weights += self._count(chosen[real], weights[real])
        marked = np.concatenate([self._markers(text.ids) for text in texts], axis=1)
        for row, tokens in enumerate(marked):
            self._marked[row] += self._count(chosen[tokens & counted])

    def _count(self, chosen: NDArray[Any], weights: NDArray[Any] | None = None) -> NDArray[Any]:
        """How often each expert was chosen, or how much weight it was given, [layers · experts]."""
        return np.bincount(
            (chosen + self._offsets).ravel(),
            weights=None if weights is None else weights.astype(np.float64).ravel(),
            minlength=self._layers * self._experts,
        )

    def counts(self, quantile: float, records: int) -> tuple[RoutingCounts, DiscoveryReport]:
        """Important, unimportant and special tokens' choices. Raises InputError where no token is a real one."""
        real = np.concatenate([self._kinds(ids) != IGNORED for ids in self._chunks(self._ids, np.int32, ())])
        if not real.any():
            raise InputError("discovery: the records have no token but special ones and white space")
        pool = self._saliency[real].astype(np.float64)
        threshold = float(np.quantile(pool, quantile))
        found = np.zeros((3, self._layers * self._experts), dtype=np.int64)
        start = important_tokens = 0
        for ids, chosen in zip(
            self._chunks(self._ids, np.int32, ()), self._chunks(self._choices, np.uint16, self._row), strict=True
        ):
            kind = self._kinds(ids)
            important = (self._saliency[start : start + len(ids)] > threshold) & (kind == CONTENT)
            special = kind == IGNORED
            for row, members in enumerate((important, ~important & ~special, special)):
                found[row] += self._count(chosen[members])
            important_tokens += int(important.sum())
            start += len(ids)
        report = DiscoveryReport(
            records=records,
            tokens=len(pool),
            important_tokens=important_tokens,
            threshold=threshold,
            tokens_near_threshold=int((np.abs(pool - threshold) <= TIE * threshold).sum()),
            choices_near_tie=self._near_ties,
        )
        important_counts, unimportant_counts, special_counts = map(self._tensor, found)
        marked = dict(zip(self._markers.texts, map(self._tensor, self._marked), strict=True))
        weights = self._tensor(self._weights)
        return RoutingCounts(important_counts, unimportant_counts, special_counts, weights, marked), report

    def _tensor(self, counts: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(counts).view(self._layers, self._experts)

    @staticmethod
    def _chunks(path: Path, dtype: type[np.generic], row: tuple[int, ...]) -> Iterator[NDArray[Any]]:
        """The file's rows in order, some tens of thousands at a time."""
        width = int(np.prod(row, dtype=int))
        with path.open("rb") as file:
            while (chunk := np.fromfile(file, dtype, CHUNK * width)).size:
                yield chunk.reshape(-1, *row)


def _append(file: BinaryIO, rows: NDArray[Any], dtype: type[np.generic]) -> None:
    file.write(rows.astype(dtype).tobytes())  # numpy's own tofile does not say why it could not write.
