"""Existence: whether domains have experts of their own, claimed only where two nulls are beaten.

The statistic of a domain and a layer is the Jensen–Shannon divergence between P(e|D) and P(e|all other domains pooled),
in bits; that of a domain is its mean over layers. It is above 0 for any domain, were it only for chance and for words.

*Labels*: passages' domains permuted. Beaten, the domain's texts are routed otherwise than texts drawn at random. Words
may be all of it: tokens have their experts in any model, and domains have their words.

*Routers*: random routers on the same hidden states, on tokens that occur in every domain. Beaten, the model's routers
tell the domain apart better than ones that have learned nothing, by more than its words.

p = (1 + how many of the null are at least as large) / (1 + how many there are), adjusted over domains by Holm's method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dsmoe.analysis.divergence import from_the_rest
from dsmoe.analysis.labels import PermutedLabels
from dsmoe.analysis.random_routers import RandomRouters
from dsmoe.analysis.usage import Usage
from dsmoe.analysis.vocabulary import Vocabulary
from dsmoe.evaluation.multiplicity import holm

SIGNIFICANCE = 0.05
FEWEST = 100
"""Shared tokens that every domain must have, or it cannot be compared without its words."""
EXISTS, NO_EVIDENCE, NOT_TESTED = "exists", "no evidence", "not tested"

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NullTest:
    """An observed divergence, [D, L] in bits, and what it is under a null, [R, D, L]."""

    observed: Floats
    null: Floats

    def over(self, axis: int) -> "NullTest":
        """The same of the mean over domains (0) or layers (1), which is one then."""
        return NullTest(self.observed.mean(axis=axis, keepdims=True), self.null.mean(axis=axis + 1, keepdims=True))

    @property
    def p_values(self) -> Floats:
        """[D, L]. What equals the observed one but for rounding is as large."""
        as_large: Floats = (self.null >= self.observed - 1e-12).sum(axis=0)
        return (1 + as_large) / (1 + len(self.null))

    def columns(self, prefix: str) -> dict[str, Floats]:
        """The null's mean and 95% quantile, and the p values, each [D, L]."""
        return {
            f"{prefix}_mean": self.null.mean(axis=0),
            f"{prefix}_q95": np.quantile(self.null, 0.95, axis=0),
            f"{prefix}_p": self.p_values,
        }


@dataclass(frozen=True, eq=False)
class Existence:
    """The tests of both nulls, the second None where domains share too few tokens; `untested` says why no claim is."""

    domains: Sequence[str]
    layers: Sequence[int]
    labels: NullTest
    routers: NullTest | None
    untested: str | None

    @classmethod
    def of(cls, usage: Usage, labels: PermutedLabels, routers: RandomRouters, vocabulary: Vocabulary) -> "Existence":
        """From what was gathered in the pass."""
        by_labels = NullTest(from_the_rest(usage.counts_DLE), labels.divergences())
        too_few = _too_few(vocabulary)
        by_routers = None if too_few else NullTest(routers.observed, routers.divergences())
        drawn = {"permutations": len(by_labels.null), "random_routers": routers.count}
        return cls(
            usage.domains, usage.layers, by_labels, by_routers, too_few or _too_coarse(drawn, len(usage.domains))
        )

    def table(self) -> pa.Table:
        """A row a domain and layer, and, with null for the layer, one for its mean over layers."""
        each, mean = _columns(self.labels, self.routers), _columns(*self._over(1))
        names = np.array(self.domains)
        rows = {name: np.concatenate([mean[name].ravel(), each[name].ravel()]) for name in each}
        return pa.table(
            {
                "domain": np.concatenate([names, np.repeat(names, len(self.layers))]),
                "layer": pa.array([None] * len(names) + list(self.layers) * len(names), pa.int64()),
                **{name: pa.array(values, pa.float64(), from_pandas=True) for name, values in rows.items()},
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Verdict and figures of each domain, over all layers, and figures of each layer, over all domains."""
        labels, routers = self._over(1)
        adjusted = {"labels_p_adjusted": _adjusted(labels), "routers_p_adjusted": routers and _adjusted(routers)}
        of_domains = _rows(_columns(labels, routers), "domain", self.domains)
        for row, of in enumerate(of_domains):
            of |= {name: values and values[row] for name, values in adjusted.items()}
            of["verdict"] = self._verdict(of)
        of_layers = _rows(_columns(*self._over(0)), "layer", self.layers)
        return {"untested": self.untested, "domains": of_domains, "layers": of_layers}

    def _over(self, axis: int) -> tuple[NullTest, NullTest | None]:
        return self.labels.over(axis), self.routers and self.routers.over(axis)

    def _verdict(self, of: Mapping[str, Any]) -> str:
        if self.untested is not None:
            return NOT_TESTED
        return EXISTS if max(of["labels_p_adjusted"], of["routers_p_adjusted"]) < SIGNIFICANCE else NO_EVIDENCE


def _columns(labels: NullTest, routers: NullTest | None) -> dict[str, Floats]:
    """The columns of the table, each [D, L]; not a number where there is no test."""
    if routers is None:
        absent = np.full_like(labels.observed, np.nan)
        of_routers = dict.fromkeys(("shared_jsd", "routers_mean", "routers_q95", "routers_p"), absent)
    else:
        of_routers = {"shared_jsd": routers.observed, **routers.columns("routers")}
    return {"jsd": labels.observed, **labels.columns("labels"), **of_routers}


def _rows(columns: Mapping[str, Floats], key: str, names: Sequence[Any]) -> list[dict[str, Any]]:
    """Columns with one value a name as a record a name, None for what is not a number."""
    values = {column: of.ravel().tolist() for column, of in columns.items()}
    return [
        {key: name, **{column: None if np.isnan(of[row]) else of[row] for column, of in values.items()}}
        for row, name in enumerate(names)
    ]


def _adjusted(test: NullTest) -> list[float]:
    return holm(test.p_values[:, 0].tolist())


def _too_few(vocabulary: Vocabulary) -> str | None:
    """Whether the domains share too few tokens, in words."""
    domain, tokens = min(vocabulary.shared_tokens.items(), key=lambda item: item[1])
    if tokens >= FEWEST:
        return None
    return (
        f"only {tokens} of the {vocabulary.tokens[domain]} tokens of {domain!r} occur in every domain, and {FEWEST} "
        "are wanted: words and experts cannot be told apart"
    )


def _too_coarse(drawn: Mapping[str, int], domains: int) -> str | None:
    """Whether a null is drawn too seldom for any p value to be small enough, in words."""
    for key, count in drawn.items():
        if domains / (1 + count) >= SIGNIFICANCE:
            wanted = round(domains / SIGNIFICANCE)
            return (
                f"analysis.{key}={count} leaves no p value below {SIGNIFICANCE} for {domains} domains; {wanted} would"
            )
    return None
