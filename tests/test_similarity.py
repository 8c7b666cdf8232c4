"""Routing against hidden states: equal to pair-by-pair sums, whatever the batches, with nulls that hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import random_model, random_records
from numpy.typing import NDArray

from dsmoe.analysis.mantel import Association, mantel, partial_correlation
from dsmoe.analysis.observe import Routed, Tokens, observe
from dsmoe.analysis.passages import Passage, from_records
from dsmoe.analysis.sample import passage_keys, sampled_passages, token_keys
from dsmoe.analysis.similarity import BIN, Similarity
from dsmoe.models.routers import find_routers

PASSAGES = from_records([*random_records(12, "alpha"), *random_records(9, "beta"), *random_records(2, "gamma")])
LAYERS = (0, 2)
"""Those of the random Qwen3-MoE that have routers."""


class Everything:
    """All that routers were given and chose, by layer and then by passage and position."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int, int], tuple[NDArray[np.float64], set[int]]] = {}

    def add(self, tokens: Tokens, routed: Routed) -> None:
        position: dict[int, int] = {}
        for passage, hidden, chosen in zip(
            tokens.passage_N.tolist(), routed.hidden_NH.double().numpy(), routed.chosen_NK.tolist(), strict=True
        ):
            at = position.setdefault(passage, 0)
            position[passage] += 1
            self.rows[routed.row, passage, at] = (hidden, set(chosen))


def observed(
    tokenizer: Any, members: int, batch_tokens: int = 400, passages: Sequence[Passage] = PASSAGES
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Everything]:
    everything = Everything()
    similarity = Similarity(passages, LAYERS, members, permutations=99, seed=0)
    observe(random_model("qwen3_moe"), tokenizer, passages, [similarity, everything], batch_tokens)
    found, pairs = similarity.tables().values()
    return found.to_pylist(), pairs.to_pylist(), everything


def cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def symmetric(members: int, generator: np.random.Generator) -> NDArray[np.float64]:
    matrix = generator.normal(size=(members, members))
    return np.asarray(matrix + matrix.T)


def test_tokens_equal_a_sum_over_all_pairs(tokenizer: Any) -> None:
    found, pairs, everything = observed(tokenizer, members=36)
    keys = passage_keys(PASSAGES)
    tokens: dict[tuple[int, str], list[Any]] = {}
    for (row, passage, at), seen in everything.rows.items():
        key = int(token_keys(keys[[passage]], np.array([at]))[0])
        tokens.setdefault((row, PASSAGES[passage].domain), []).append((key, seen))
    for row, layer in enumerate(LAYERS):
        sample = []
        for domain in ("alpha", "beta", "gamma"):
            ordered = sorted(tokens[row, domain], key=lambda one: one[0])
            assert len(ordered) > 12
            sample += [(domain, *seen) for _, seen in ordered[:12]]
        above = [(one, other) for at, one in enumerate(sample) for other in sample[:at]]
        cosines = np.array([cosine(one[1], other[1]) for one, other in above])
        overlaps = np.array([len(one[2] & other[2]) / 2 for one, other in above])
        same = np.array([float(one[0] == other[0]) for one, other in above])
        line = next(one for one in found if one["level"] == "token" and one["layer"] == layer)
        assert line["correlation"] == pytest.approx(np.corrcoef(cosines, overlaps)[0, 1], abs=1e-3)
        assert line["explained"] == pytest.approx(line["correlation"] ** 2)
        # The partial correlation is that of what regression on the cosine leaves.
        left = [values - np.polyval(np.polyfit(cosines, values, 1), cosines) for values in (same, overlaps)]
        assert line["same_domain_partial"] == pytest.approx(np.corrcoef(left)[0, 1], abs=1e-3)
        bins = [one for one in pairs if one["level"] == "token" and one["layer"] == layer]
        assert sum(one["pairs"] for one in bins) == len(above)
        assert sum(one["pairs"] * one["overlap_mean"] for one in bins) == pytest.approx(overlaps.sum(), rel=1e-5)
        middle = max(bins, key=lambda one: one["pairs"])
        within = np.abs(cosines - middle["cosine_bin"]) < BIN / 2
        assert within.sum() == pytest.approx(middle["pairs"], abs=1)


def test_passages_equal_a_sum_over_all_pairs(tokenizer: Any) -> None:
    found, _, everything = observed(tokenizer, members=18)
    chosen = sampled_passages(PASSAGES, 6)
    assert [PASSAGES[index].domain for index in chosen] == ["alpha"] * 6 + ["beta"] * 6 + ["gamma"] * 2
    for row, layer in enumerate(LAYERS):
        means, visits = [], []
        for passage in chosen:
            seen = [value for (at, of, _), value in everything.rows.items() if (at, of) == (row, passage)]
            means.append(np.mean([hidden for hidden, _ in seen], axis=0))
            visits.append(np.array([sum(expert in choice for _, choice in seen) for expert in range(8)]))
        above = [(one, other) for one in range(len(chosen)) for other in range(one)]
        expected = np.corrcoef(
            [cosine(means[one], means[other]) for one, other in above],
            [cosine(visits[one], visits[other]) for one, other in above],
        )[0, 1]
        line = next(one for one in found if one["level"] == "sequence" and one["layer"] == layer)
        assert line["correlation"] == pytest.approx(expected, abs=1e-3)


def test_no_batching_changes_what_is_sampled(tokenizer: Any) -> None:
    found, pairs, _ = observed(tokenizer, members=30, batch_tokens=1)
    again, pairs_again, _ = observed(tokenizer, members=30, batch_tokens=4096)
    assert sum(one["pairs"] for one in pairs) == sum(one["pairs"] for one in pairs_again)
    for one, other in zip(found, again, strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_the_order_of_passages_changes_nothing(tokenizer: Any) -> None:
    found, _, _ = observed(tokenizer, members=30)
    again, _, _ = observed(tokenizer, members=30, passages=PASSAGES[::-1])
    for one, other in zip(found, again, strict=True):
        assert {**one, "p": 0, "null_q95": 0} == pytest.approx({**other, "p": 0, "null_q95": 0}, abs=1e-3)


def test_mantel_equals_permuting_by_hand() -> None:
    generator = np.random.default_rng(3)
    first = symmetric(12, generator)
    second = 0.3 * first + symmetric(12, generator)
    found = mantel(first, second, permutations=200, seed=5)
    above = np.triu_indices(12, k=1)
    order, null = np.random.default_rng(5), []
    for _ in range(200):
        moved = order.permutation(12)
        shuffled = np.array([[first[one, other] for other in moved] for one in moved])
        null.append(np.corrcoef(shuffled[above], second[above])[0, 1])
    expected = np.corrcoef(first[above], second[above])[0, 1]
    assert found.correlation == pytest.approx(expected)
    assert found.null_q95 == pytest.approx(np.quantile(null, 0.95))
    assert found.p == (1 + sum(one >= expected for one in null)) / 201


def test_false_alarms_of_mantel_are_as_many_as_promised() -> None:
    """Routing that is independent of hidden states: 200 layers of made-up tokens, two of which share many a choice."""
    generator = np.random.default_rng(0)
    p_values = []
    for _ in range(200):
        hidden = generator.normal(size=(40, 8)) + generator.normal(size=8)
        hidden /= np.linalg.norm(hidden, axis=1, keepdims=True)
        busy = generator.dirichlet(np.ones(6))
        chosen = np.array([generator.choice(6, 2, replace=False, p=busy) for _ in range(40)])
        choices = np.eye(6)[chosen].sum(axis=1)
        seed = int(generator.integers(1_000_000))
        p = mantel(hidden @ hidden.T, choices @ choices.T / 2, permutations=99, seed=seed).p
        assert p is not None
        p_values.append(p)
    # Of 200 tests at 5%, 19 or more would be wrong by chance in fewer than one of a hundred such runs.
    assert sum(p <= 0.05 for p in p_values) < 19
    assert 0.42 < np.mean(p_values) < 0.58


def test_what_does_not_vary_goes_with_nothing() -> None:
    varying, flat = symmetric(6, np.random.default_rng(0)), np.ones((6, 6))
    assert mantel(varying, flat, 9, 0) == mantel(flat, varying, 9, 0) == Association(None, None, None)
    assert Association(None, None, None).explained is None
    assert partial_correlation(varying, flat, varying.T**2) is None
    # Nothing is left of what the third explains wholly.
    assert partial_correlation(varying, varying**2, 2 * varying + 1) is None


def test_one_domain_alone_adds_nothing(tokenizer: Any) -> None:
    found, _, _ = observed(tokenizer, members=10, passages=[p for p in PASSAGES if p.domain == "alpha"])
    assert all(line["same_domain_partial"] is None and line["p"] is not None for line in found)


def test_hidden_states_explain_the_choices_of_their_own_router(tokenizer: Any) -> None:
    found, _, _ = observed(tokenizer, members=60)
    assert all(line["p"] == 0.01 and line["correlation"] > line["null_q95"] for line in found)


def test_tables_have_their_columns(tokenizer: Any) -> None:
    similarity = Similarity(PASSAGES, LAYERS, 10, permutations=9, seed=0)
    observe(random_model("qwen3_moe"), tokenizer, PASSAGES, [similarity], 400)
    found, pairs = similarity.tables().values()
    assert isinstance(found, pa.Table)
    assert found.column_names == [
        "level", "layer", "correlation", "explained", "null_q95", "p", "same_domain_partial",
    ]  # fmt: skip
    assert pairs.column_names == ["level", "layer", "cosine_bin", "overlap_mean", "pairs"]
    assert [router.layer for router in find_routers(random_model("qwen3_moe"))] == list(LAYERS)
