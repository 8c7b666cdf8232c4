"""Against another model: whether two models use like experts for the same texts.

Shapes: D domains, L layers with a router, E experts.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dsmoe.analysis.divergence import jaccard, top_p_set
from dsmoe.analysis.usage import TABLE, Usage, shares
from dsmoe.errors import InputError
from dsmoe.provenance import stable_hash

FILE, SCHEMA = "analysis.json", 1


@dataclass(frozen=True, eq=False)
class Earlier:
    """A finished analysis: which model it is of, and the shares of choices [D, L, E] that it found."""

    model: str
    shares: NDArray[np.float64]

    @property
    def hash(self) -> str:
        """A hash of what it found."""
        return stable_hash([self.model, self.shares.tolist()])

    @classmethod
    def read(cls, folder: Path, key: str, passages: str) -> "Earlier":
        """The analysis in `folder`, which config key `key` names.

        Raises InputError where there is none, and where it is of other texts than those with the hash `passages`.
        """
        try:
            found = json.loads((folder / FILE).read_text(encoding="utf-8"))
            table = pq.read_table(folder / TABLE)
        except (OSError, ValueError) as error:
            raise InputError(f"{key}: {folder} is no finished analysis: {_reason(error)}") from error
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            raise InputError(f"{key}: {folder / FILE} is not an analysis of schema {SCHEMA}")
        if found.get("passages") != passages:
            raise InputError(f"{key}: {folder} is of other texts, so that the models cannot be compared")
        shape = len(found["domains"]), len(found["layers"]), found["num_experts"]
        return cls(found["model"], shares(table["tokens"].to_numpy().reshape(shape)))


@dataclass(frozen=True, eq=False)
class Against:
    """How alike two models' use of experts is, by domain and layer of the first: each [D, L].

    `rank_matched_overlap` is Σ min(P, P′) with the experts of each model in the order of their shares: it asks only
    whether choices are as concentrated, of whatever experts, and 1 is alike. Layers are matched by relative depth, 0 to
    1; the model with fewer experts has others that take nothing. `jaccard_top_p` is that of top-p sets, None unless
    both models have as many layers and experts; it means something where expert 3 of one is expert 3 of the other, as
    for two models that were trained from one.
    """

    model: str
    usage: Usage
    rank_matched_overlap: NDArray[np.float64]
    jaccard_top_p: NDArray[np.float64] | None

    @classmethod
    def of(cls, usage: Usage, earlier: Earlier, top_p: float) -> "Against":
        """Hold the choices of a model against those of another one."""
        ours, theirs = usage.shares, earlier.shares
        there = np.rint(_depth(ours.shape[1]) * (theirs.shape[1] - 1)).astype(int)
        overlap = np.minimum(*_padded(_descending(ours), _descending(theirs[:, there]))).sum(axis=-1)
        alike = ours.shape == theirs.shape
        found = jaccard(top_p_set(ours, top_p), top_p_set(theirs, top_p)) if alike else None
        return cls(earlier.model, usage, overlap, found)

    def table(self) -> pa.Table:
        """A row a domain and layer."""
        domains, layers = len(self.usage.domains), len(self.usage.layers)
        alike = None if self.jaccard_top_p is None else self.jaccard_top_p.ravel()
        return pa.table(
            {
                "domain": np.repeat(self.usage.domains, layers),
                "layer": np.tile(self.usage.layers, domains),
                "relative_depth": np.tile(_depth(layers), domains),
                "jaccard_top_p": pa.nulls(domains * layers, pa.float64()) if alike is None else alike,
                "rank_matched_overlap": self.rank_matched_overlap.ravel(),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """The other model, and the means over domains and layers."""
        return {
            "model": self.model,
            "jaccard_top_p": None if self.jaccard_top_p is None else float(self.jaccard_top_p.mean()),
            "rank_matched_overlap": float(self.rank_matched_overlap.mean()),
        }


def _depth(layers: int) -> NDArray[np.float64]:
    """The relative depth of each layer with a router; 0 where there is but one."""
    return np.linspace(0, 1, layers) if layers > 1 else np.zeros(1)


def _descending(shares_E: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.sort(-shares_E, axis=-1)


def _padded(*both: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The same with experts that take nothing where there are fewer."""
    most = max(one.shape[-1] for one in both)
    return [np.pad(one, ((0, 0), (0, 0), (0, most - one.shape[-1]))) for one in both]


def _reason(error: Exception) -> str:
    missing = isinstance(error, FileNotFoundError)
    return f"{FILE} or {TABLE} is missing" if missing else f"{FILE} or {TABLE} cannot be read"
