"""Recovery of known experts, against scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_score, roc_auc_score

from dsmoe.analysis.recovery import auroc, precision_at
from dsmoe.errors import InputError

TRUTH = torch.tensor([[True, False, False], [False, True, False]])


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores with ties and a truth that is neither empty nor everything."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 8)))
    size = shape[0] * shape[1]
    scores = draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
    truth = draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(lambda each: 0 < sum(each) < size))
    return torch.tensor(scores, dtype=torch.float64).view(shape) / 7, torch.tensor(truth).view(shape)


@given(cases())
def test_auroc_is_that_of_scikit_learn(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, truth = case
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth.flatten(), scores.flatten()))


@given(cases(), st.data())
def test_precision_is_that_of_scikit_learn(case: tuple[torch.Tensor, torch.Tensor], data: st.DataObject) -> None:
    scores, truth = case
    count = data.draw(st.integers(1, scores.numel()))
    ranked = sorted(range(scores.numel()), key=lambda expert: -scores.flatten()[expert].item())
    found = np.isin(np.arange(scores.numel()), ranked[:count])
    assert precision_at(scores, truth, count) == pytest.approx(precision_score(truth.flatten(), found))


def test_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.5, 0.5, 0.0]])
    assert auroc(scores, TRUTH) == 7 / 8  # 0.9 leads all four others; 0.5 leads two and ties with two.
    assert precision_at(scores, TRUTH, 1) == 1
    assert precision_at(scores, TRUTH, 2) == 0.5  # Of the three with 0.5 the earliest layer's comes first.
    assert precision_at(scores, TRUTH, 4) == 0.5
    assert precision_at(scores, TRUTH, 6) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("scores", "truth", "count", "fragment"),
    [
        (torch.zeros(2, 2), TRUTH, 1, r"scores are \[2, 2\], the truth is \[2, 3\]"),
        (torch.full((2, 3), torch.nan), TRUTH, 1, "not finite"),
        (torch.zeros(2, 3), torch.zeros(2, 3).bool(), 1, "none to find"),
        (torch.zeros(2, 3), TRUTH, 0, "count 0 is not one of 1 to 6"),
        (torch.zeros(2, 3), TRUTH, 7, "count 7 is not one of 1 to 6"),
    ],
)
def test_refuses(scores: torch.Tensor, truth: torch.Tensor, count: int, fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        precision_at(scores, truth, count)


def test_auroc_wants_both_kinds() -> None:
    with pytest.raises(InputError, match="none to tell them from"):
        auroc(torch.zeros(2, 3), torch.ones(2, 3).bool())
