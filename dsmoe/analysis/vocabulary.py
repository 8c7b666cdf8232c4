"""The vocabulary of domains: which tokens occur in all of them, so that they can be compared without their own words.

Shapes: D domains, V token ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmoe.analysis.passages import Passage, domains_of
from dsmoe.discovery.tokens import IGNORED, TokenKinds
from dsmoe.errors import InputError


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """How often each token occurs in each domain; special tokens and white space do not count."""

    domains: tuple[str, ...]
    tokens_DV: NDArray[np.int64]

    @classmethod
    def of(cls, tokenizer: Any, passages: Sequence[Passage]) -> "Vocabulary":
        """Tokenise every passage once. Raises InputError for one without a token that counts."""
        domains = domains_of(passages)
        row = {domain: index for index, domain in enumerate(domains)}
        kinds = TokenKinds(tokenizer, ())
        tokens_DV = np.zeros((len(domains), len(tokenizer)), dtype=np.int64)
        for passage in passages:
            ids = np.array(tokenizer(passage.text).input_ids, dtype=np.int32)
            counted = ids[kinds(ids) != IGNORED]
            if not len(counted):
                raise InputError(f"analysis: passage {passage.id!r} has no token but special ones and white space")
            np.add.at(tokens_DV[row[passage.domain]], counted, 1)
        return cls(domains, tokens_DV)

    @property
    def shared(self) -> NDArray[np.bool_]:
        """Which token ids occur in every domain: [V]."""
        return np.logical_and.reduce(self.tokens_DV > 0)

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of each domain."""
        return dict(zip(self.domains, self.tokens_DV.sum(axis=1).tolist(), strict=True))

    @property
    def shared_tokens(self) -> dict[str, int]:
        """Tokens of each domain whose id occurs in every domain."""
        return dict(zip(self.domains, self.tokens_DV[:, self.shared].sum(axis=1).tolist(), strict=True))
