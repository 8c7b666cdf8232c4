"""Why tokens go where they go: whether routing is alike where hidden states are.

"The Myth of Expert Specialization in MoEs" (arXiv 2604.09780) holds that experts mirror the geometry of hidden states:
what looks like a domain's expert is where states of that domain lie. Here each layer's routing is held against its
router's own inputs, pair by pair: of tokens, and of whole passages.

Shapes: S members of a sample, tokens or passages; N counted tokens of a batch, P passages of the sample among them;
H hidden width, E experts, K chosen experts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn import functional

from dsmoe.analysis.mantel import mantel, partial_correlation
from dsmoe.analysis.observe import Routed, Tokens
from dsmoe.analysis.passages import Passage, domains_of
from dsmoe.analysis.sample import TokenSample, passage_keys, sampled_passages, token_keys

Level = Literal["token", "sequence"]
BIN = 0.05
"""Width of the bins of cosines in which pairs are counted."""

SIMILARITY = pa.schema(
    {
        "level": pa.string(),
        "layer": pa.int64(),
        "correlation": pa.float64(),
        "explained": pa.float64(),
        "null_q95": pa.float64(),
        "p": pa.float64(),
        "same_domain_partial": pa.float64(),
    }
)
PAIRS = pa.schema(
    {
        "level": pa.string(),
        "layer": pa.int64(),
        "cosine_bin": pa.float64(),
        "overlap_mean": pa.float64(),
        "pairs": pa.int64(),
    }
)


@dataclass(eq=False)
class _Members:
    """The members of a sample in one layer: directions of hidden states [S, H], and choices [S, E] of a length of 1."""

    hidden_SH: NDArray[np.float16]
    choices_SE: NDArray[np.float32]


@dataclass
class Similarity:
    """Routing against hidden states, of tokens and of passages that are sampled evenly from all domains.

    Members are chosen by a hash of what they are, so batching changes no member and values by rounding only. Kept are,
    a layer and member, the direction of its hidden state in half precision and its choices: with 48 layers, hidden
    width 2048, 128 experts and 400 members of each level 177 MB and, while they are compared, matrices of 400 × 400,
    however many passages are read.
    """

    passages: Sequence[Passage]
    layers: Sequence[int]
    members: int
    permutations: int
    seed: int
    _batch: Tokens | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        domains = domains_of(self.passages)
        # Two of each domain at least: a pair.
        most = max(2, self.members // len(domains))
        self._keys = passage_keys(self.passages)
        self._tokens = TokenSample(len(domains), most)
        self._sampled = sampled_passages(self.passages, most)
        self._seen = np.zeros(len(self._sampled), dtype=np.bool_)
        self._slot = np.full(len(self.passages), -1)
        self._slot[self._sampled] = np.arange(len(self._sampled))
        self._passage_domain = np.array([domains.index(self.passages[index].domain) for index in self._sampled])
        self._token_domain = np.repeat(np.arange(len(domains)), most)
        self._of: dict[tuple[Level, int], _Members] = {}

    def add(self, tokens: Tokens, routed: Routed) -> None:
        """Keep what the sample's tokens and passages among a batch's did in one layer."""
        if tokens is not self._batch:
            self._choose(tokens)
            self._batch = tokens
        self._add_tokens(routed)
        self._add_passages(routed)

    def _choose(self, tokens: Tokens) -> None:
        """Which of the batch's tokens enter the sample, and which passages of the sample are in the batch."""
        _, first, run = np.unique(tokens.passage_N, return_index=True, return_inverse=True)
        position_N = np.arange(len(tokens.ids_N)) - first[run]
        key_N = token_keys(self._keys[tokens.passage_N], position_N)
        self._entering, self._taken = self._tokens.take(key_N, tokens.domain_N)
        self._slots_P, self._members_PN = self._passages_of(tokens)

    def _passages_of(self, tokens: Tokens) -> tuple[NDArray[np.int64], torch.Tensor]:
        """The slots of the sample's passages in the batch [P], and which tokens belong to each [P, N]."""
        slot_N = self._slot[tokens.passage_N]
        slots_P = np.unique(slot_N[slot_N >= 0])
        self._seen[slots_P] = True
        return slots_P, torch.from_numpy(slot_N == slots_P[:, None])

    def _add_tokens(self, routed: Routed) -> None:
        kept = self._at("token", routed, len(self._token_domain))
        entering = torch.from_numpy(self._entering).to(routed.hidden_NH.device)
        choices = functional.one_hot(routed.chosen_NK[entering].long(), routed.router.num_experts).sum(dim=1)
        kept.hidden_SH[self._taken] = _directions(routed.hidden_NH[entering]).half().cpu().numpy()
        kept.choices_SE[self._taken] = _directions(choices.float()).cpu().numpy()

    def _add_passages(self, routed: Routed) -> None:
        kept = self._at("sequence", routed, len(self._sampled))
        members_PN = self._members_PN.to(routed.hidden_NH)
        choices_NE = functional.one_hot(routed.chosen_NK.long(), routed.router.num_experts).sum(dim=1)
        kept.hidden_SH[self._slots_P] = _directions(members_PN @ routed.hidden_NH).half().cpu().numpy()
        kept.choices_SE[self._slots_P] = _directions(members_PN @ choices_NE.to(members_PN)).cpu().numpy()

    def _at(self, level: Level, routed: Routed, size: int) -> _Members:
        key = (level, routed.row)
        if key not in self._of:
            self._of[key] = _Members(
                np.zeros((size, routed.hidden_NH.shape[1]), dtype=np.float16),
                np.zeros((size, routed.router.num_experts), dtype=np.float32),
            )
        return self._of[key]

    def tables(self) -> dict[str, pa.Table]:
        """`similarity` and `pairs`.

        The first has, for a level and layer, Pearson's correlation over pairs between the cosine of their hidden states
        and the overlap of their choices; its square, the share of the overlap that hidden states explain; the Mantel
        test's null and p; and the partial correlation of "of the same domain" with the overlap, given the cosine: what
        a domain adds. Overlap is |∩| / k for tokens, the cosine of visit counts for passages, the cosine for passages
        that of their mean hidden states. Null where nothing varies. The second has the mean overlap of the pairs in a
        bin of cosines, by its centre.
        """
        rows: list[dict[str, Any]] = []
        pairs: list[dict[str, Any]] = []
        for level, row, cosine_SS, overlap_SS, same_SS in self._matrices():
            at = {"level": level, "layer": self.layers[row]}
            found = mantel(cosine_SS, overlap_SS, self.permutations, self.seed)
            rows.append(
                {
                    **at,
                    "correlation": found.correlation,
                    "explained": found.explained,
                    "null_q95": found.null_q95,
                    "p": found.p,
                    "same_domain_partial": partial_correlation(same_SS, overlap_SS, cosine_SS),
                }
            )
            pairs += [at | one for one in _binned(cosine_SS, overlap_SS)]
        return {"similarity": pa.Table.from_pylist(rows, SIMILARITY), "pairs": pa.Table.from_pylist(pairs, PAIRS)}

    def _matrices(self) -> Iterator[tuple[Level, int, NDArray[Any], NDArray[Any], NDArray[Any]]]:
        """Cosines, overlaps and whether domains are the same [S, S], by level and row."""
        samples: tuple[tuple[Level, NDArray[np.int64], NDArray[np.int64]], ...] = (
            ("token", self._tokens.slots, self._token_domain),
            ("sequence", np.flatnonzero(self._seen), self._passage_domain),
        )
        for level, slots, domain in samples:
            same_SS = (domain[slots] == domain[slots][:, None]).astype(np.float64)
            for row in range(len(self.layers)):
                kept = self._of[level, row]
                hidden_SH = _directions(torch.from_numpy(kept.hidden_SH[slots]).float()).numpy()
                choices_SE = kept.choices_SE[slots]
                yield level, row, hidden_SH @ hidden_SH.T, choices_SE @ choices_SE.T, same_SS


def _directions(vectors: torch.Tensor) -> torch.Tensor:
    """The same vectors [..., H] with a length of 1."""
    return functional.normalize(vectors, dim=-1)


def _binned(cosine_SS: NDArray[Any], overlap_SS: NDArray[Any]) -> list[dict[str, Any]]:
    """The mean overlap of pairs in each bin of cosines that has any."""
    above = np.triu_indices(len(cosine_SS), k=1)
    last = round(2 / BIN) - 1
    bins = np.floor((cosine_SS[above] + 1) / BIN).astype(np.int64).clip(0, last)
    counts = np.bincount(bins)
    sums = np.bincount(bins, weights=overlap_SS[above])
    return [
        {"cosine_bin": (index + 0.5) * BIN - 1, "overlap_mean": sums[index] / counts[index], "pairs": counts[index]}
        for index in np.flatnonzero(counts)
    ]
