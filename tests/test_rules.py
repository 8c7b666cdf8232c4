"""Scoring rules, against definitions written out token by token; and which experts each takes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsmoe import ExpertProfile, InputError, Steering
from dsmoe.config import SteeringConfig
from dsmoe.discovery.counts import RoutingCounts
from dsmoe.discovery.profile import DiscoveryReport
from dsmoe.discovery.rule import Evidence, Suggestion, rule_of, scores
from dsmoe.steering.selection import best, until_mass

EXPERTS, TOP_K = 4, 2
CONFIG = SteeringConfig(
    strength=4.0,
    strength_grid=(4.0,),
    num_experts=2,
    num_experts_grid=(2,),
    random_draws=1,
    layers=None,
    mode="logit",
    scale_back=True,
    file=None,
)


@dataclass(frozen=True)
class Token:
    """One token: what it is, which experts it chose in the one layer, and their weights."""

    kind: str
    marked: bool
    chosen: tuple[int, ...]
    weights: tuple[float, ...]


tokens = st.lists(
    st.builds(
        Token,
        st.sampled_from(["important", "unimportant", "special"]),
        st.booleans(),
        st.permutations(range(EXPERTS)).map(lambda order: tuple(order[:TOP_K])),
        st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    ),
    min_size=1,
    max_size=20,
).filter(lambda found: {"important", "unimportant"} & {token.kind for token in found})


def counts(found: list[Token]) -> RoutingCounts:
    def count(those: list[Token]) -> torch.Tensor:
        return torch.tensor([[sum(expert in token.chosen for token in those) for expert in range(EXPERTS)]])

    of_kind = {kind: count([t for t in found if t.kind == kind]) for kind in ("important", "unimportant", "special")}
    weights = torch.zeros(1, EXPERTS, dtype=torch.float64)
    for token in found:
        if token.kind != "special":
            for expert, weight in zip(token.chosen, token.weights, strict=True):
                weights[0, expert] += weight
    return RoutingCounts(**of_kind, gate_weights=weights, markers={"m": count([t for t in found if t.marked])})


def evidence(found: list[Token], contrast: list[Token] | None = None) -> Evidence:
    return Evidence(counts(found), TOP_K, counts(contrast) if contrast else None, {"m": 1.0})


def real(found: list[Token]) -> list[Token]:
    return [token for token in found if token.kind != "special"]


def chose(found: list[Token], expert: int) -> Fraction:
    """The share of tokens that chose the expert."""
    return Fraction(sum(expert in token.chosen for token in found), len(found))


def close(found: torch.Tensor, expected: list[float]) -> bool:
    return torch.allclose(found, torch.tensor([expected], dtype=torch.float64), rtol=1e-9, atol=1e-12)


@given(tokens)
def test_dsmoe_and_the_code_of_its_authors(found: list[Token]) -> None:
    total = TOP_K * len(real(found))
    apart = [
        sum((1 if token.kind == "important" else -1) * (expert in token.chosen) for token in real(found))
        for expert in range(EXPERTS)
    ]
    busy = [sum(expert in token.chosen for token in real(found)) for expert in range(EXPERTS)]
    assert close(scores("dsmoe", evidence(found)), [one / total for one in apart])
    assert close(scores("dsmoe_code", evidence(found)), [a * b / total for a, b in zip(apart, busy, strict=True)])
    assert close(scores("frequency", evidence(found)), [one / total for one in busy])


@given(tokens, tokens)
def test_risk_difference_is_a_difference_of_shares_of_tokens(found: list[Token], other: list[Token]) -> None:
    expected = [float(chose(real(found), expert) - chose(real(other), expert)) for expert in range(EXPERTS)]
    assert close(scores("risk_difference", evidence(found, other)), expected)


@given(tokens)
def test_esft_shares_sum_up_to_one_over_the_experts_of_a_layer(found: list[Token]) -> None:
    given_ = [
        sum(weight for t in real(found) for chosen, weight in zip(t.chosen, t.weights, strict=True) if chosen == expert)
        for expert in range(EXPERTS)
    ]
    assert close(scores("esft", evidence(found)), [weight / sum(given_) for weight in given_])
    taken = [float(chose(real(found), expert)) / TOP_K for expert in range(EXPERTS)]
    assert close(scores("esft_token", evidence(found)), taken)


def test_esft_is_normalised_over_experts_not_over_layers() -> None:
    weights = torch.tensor([[1.0, 3.0], [30.0, 10.0]], dtype=torch.float64)
    ones = torch.ones(2, 2, dtype=torch.int64)
    found = scores("esft", Evidence(RoutingCounts(ones, ones, ones, weights), top_k=1))
    assert found.tolist() == [[0.25, 0.75], [0.75, 0.25]]


@given(tokens)
def test_rice_sums_normalised_mutual_information(found: list[Token]) -> None:
    marked = [token for token in found if token.marked]
    if not marked:
        with pytest.raises(InputError, match="'m' does not occur"):
            scores("rice", evidence(found))
        return
    expected = []
    for expert in range(EXPERTS):
        joint = Fraction(sum(expert in token.chosen for token in marked), len(found))
        if joint == 0:
            expected.append(-1.0)
        elif joint == 1:
            expected.append(1.0)
        else:
            pointwise = math.log(joint / (chose(found, expert) * Fraction(len(marked), len(found))))
            expected.append(pointwise / -math.log(joint))
    assert close(scores("rice", evidence(found)), expected)
    assert min(expected) >= -1
    assert max(expected) <= 1 + 1e-12


def test_rice_weighs_markers() -> None:
    one = [Token("important", True, (0, 1), (0.5, 0.5)), Token("important", False, (2, 3), (0.5, 0.5))]
    both = Evidence(counts(one), TOP_K, markers={"m": -2.0})
    # Marked tokens alone chose 0 and 1: joint = P(e) = P(m) = 1/2, so nPMI is 1; 2 and 3 never meet the marker.
    assert scores("rice", both).tolist() == [[-2.0, -2.0, 2.0, 2.0]]


def test_random_is_seeded() -> None:
    drawn = [
        scores("random", Evidence(counts([Token("important", True, (0, 1), (1, 1))]), TOP_K, seed=s)) for s in (3, 3, 4)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# Which experts are steered.


def profile(values: list[list[float]], top_k: int = 2, rule: str = "dsmoe") -> ExpertProfile:
    found = torch.tensor(values, dtype=torch.float64)
    ones = torch.ones(found.shape, dtype=torch.int64)
    layers = tuple(range(1, len(values) + 1))
    return ExpertProfile(
        scores=found,
        counts=RoutingCounts(ones, ones, ones, ones.double()),
        layers=layers,
        rule=rule,
        domain="d",
        model="m",
        architecture="olmoe",
        num_layers=len(values) + 1,
        top_k=top_k,
        report=DiscoveryReport(1, 1, 1, 0.0, 0, 0),
    )


def test_shares_are_taken_layer_by_layer_until_they_reach_the_mass() -> None:
    shares = profile([[0.5, 0.3, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
    assert until_mass(shares, 0.5) == {1: (0,), 2: (0, 1)}
    assert until_mass(shares, 0.81) == {1: (0, 1, 2), 2: (0, 1, 2, 3)}
    assert until_mass(shares, 1.0) == {1: (0, 1, 2, 3), 2: (0, 1, 2, 3)}
    assert until_mass(shares, 0.1, layers=(2, 2)) == {2: (0,)}
    with pytest.raises(InputError, match="no shares of a layer"):
        until_mass(profile([[0.5, 0.4]]), 0.1)


def test_no_more_experts_of_a_layer_than_a_token_is_routed_to() -> None:
    found = profile([[9.0, 8.0, 7.0, 6.0], [5.0, 4.0, 3.0, 2.0]])
    assert best(found, 3) == {1: (0, 1, 2)}
    assert best(found, 3, within_top_k=True) == {1: (0, 1), 2: (0,)}
    with pytest.raises(InputError, match="5 experts are more than top-2 in each of 2 layers"):
        best(found, 5, within_top_k=True)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("dsmoe", {"mode": "logit", "strength": 4.0, "scale_back": True, "total_experts": 2}),
        ("rice", {"mode": "gate", "strength": 63.0, "scale_back": False, "total_experts": 2}),
        ("risk_difference", {"mode": "force", "strength": 1.0, "total_experts": 2}),
        ("esft", {"mode": "logit", "strength": 4.0, "total_experts": 2}),
        ("esft_token", {"mode": "logit", "strength": 4.0, "total_experts": 2}),
    ],
)
def test_what_papers_suggest(rule: str, expected: Mapping[str, object]) -> None:
    found = profile([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]], rule=rule)
    steering = Steering.suggested(found, CONFIG, rule_of(rule).suggestion)
    assert {name: getattr(steering, name) for name in expected} == expected


def test_without_a_suggestion_the_config_steers() -> None:
    found = profile([[0.1, 0.2], [0.4, 0.3]])
    assert Steering.suggested(found, CONFIG) == Steering.from_profile(found, 2, 4.0)
    assert Suggestion() == rule_of("dsmoe").suggestion


def test_a_contrast_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="model with other routers"):
        profile([[0.1, 0.2]]).scored("risk_difference", contrast=profile([[0.1, 0.2, 0.3]]))
    with pytest.raises(InputError, match="wants a profile of a contrast"):
        profile([[0.1, 0.2]]).scored("risk_difference")
