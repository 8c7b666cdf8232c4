"""The null of labels: passages' domains permuted, so that a domain is a handful of passages like any other.

Every passage's counts are spilled to disk during the pass and summed anew for each permutation after it, some passages
and some permutations at a time: memory does not grow with their number.

Shapes: D domains, L layers with a router, P passages, E experts, R permutations, B and C some of R and of P.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsmoe.analysis.divergence import from_the_rest
from dsmoe.analysis.observe import Routed, Tokens
from dsmoe.analysis.passages import Passage, domains_of
from dsmoe.analysis.usage import counted

PERMUTATIONS, PASSAGES = 32, 1024
"""How many are held at a time."""
WIDTH = np.dtype(np.int32)


class PermutedLabels:
    """What each domain's divergence from the rest would be if its passages were of any domain.

    It tests whether a domain's texts are routed otherwise than texts drawn at random: their words may be all that
    differs. Labels are permuted over groups, whose passages stay together; each domain keeps its number of groups.
    """

    def __init__(
        self, passages: Sequence[Passage], layers: int, num_experts: int, permutations: int, seed: int, file: Path
    ) -> None:
        domains = {domain: index for index, domain in enumerate(domains_of(passages))}
        units: dict[tuple[str, str], int] = {}
        for passage in passages:
            units.setdefault((passage.domain, passage.group), len(units))
        self._unit_P = np.array([units[passage.domain, passage.group] for passage in passages])
        self._label_of_unit = np.array([domains[domain] for domain, _ in units], dtype=np.int16)
        self._shape = len(domains), layers, len(passages), num_experts
        self._permutations, self._seed = permutations, seed
        self._file = file
        with file.open("wb") as spill:
            spill.truncate(layers * len(passages) * num_experts * WIDTH.itemsize)

    @property
    def groups(self) -> int:
        """How many labels are permuted."""
        return len(self._label_of_unit)

    def add(self, tokens: Tokens, routed: Routed) -> None:
        """Spill the counts of a batch's passages in one layer. All of a passage is in one batch."""
        _, _, passages, experts = self._shape
        found, place_N = np.unique(tokens.passage_N, return_inverse=True)
        counts = counted(place_N, routed.chosen_NK, len(found), experts).astype(WIDTH)
        with self._file.open("r+b") as spill:
            for passage, row in zip(found, counts, strict=True):
                spill.seek((routed.row * passages + int(passage)) * experts * WIDTH.itemsize)
                spill.write(row.tobytes())

    def divergences(self) -> NDArray[np.float64]:
        """Each domain's divergence from the rest, in bits, under each permutation: [R, D, L]. Removes the spill."""
        domains, layers, _, experts = self._shape
        found = []
        for label_BP in self._relabelled():
            counts = np.zeros((layers, len(label_BP) * domains, experts))
            for row, start, counts_CE in self._spilled():
                label_BC = label_BP[:, start : start + len(counts_CE)]
                is_of_BDC = label_BC[:, None] == np.arange(domains)[:, None]
                counts[row] += is_of_BDC.reshape(-1, len(counts_CE)).astype(np.float64) @ counts_CE
            found.append(from_the_rest(counts.reshape(layers, -1, domains, experts).transpose(1, 2, 0, 3)))
        self._file.unlink()
        return np.concatenate(found)

    def _relabelled(self) -> Iterator[NDArray[np.int16]]:
        """The passages' labels under some permutations at a time, [B, P]."""
        generator = np.random.default_rng(self._seed)
        for start in range(0, self._permutations, PERMUTATIONS):
            block = min(PERMUTATIONS, self._permutations - start)
            permuted = generator.permuted(np.tile(self._label_of_unit, (block, 1)), axis=1)
            yield permuted[:, self._unit_P]

    def _spilled(self) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
        """Row, first passage and counts [C, E], some passages at a time."""
        _, layers, passages, experts = self._shape
        with self._file.open("rb") as file:
            for row in range(layers):
                for start in range(0, passages, PASSAGES):
                    block = min(PASSAGES, passages - start)
                    counts = np.fromfile(file, WIDTH, block * experts).reshape(block, experts)
                    yield row, start, counts.astype(np.float64)
