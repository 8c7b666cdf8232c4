"""A model whose layers lie on two devices: discovery, steering and analysis do what they do on one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from conftest import random_model, random_records
from elsewhere import SECOND, place, spread
from test_gpu import FAMILIES
from transformers import PreTrainedModel

from dsmoe import InputError, Steering, discover, steer
from dsmoe.analysis.existence import Existence
from dsmoe.analysis.labels import PermutedLabels
from dsmoe.analysis.load import Direction
from dsmoe.analysis.observe import observe
from dsmoe.analysis.passages import from_records
from dsmoe.analysis.random_routers import RandomRouters
from dsmoe.analysis.similarity import Similarity
from dsmoe.analysis.usage import Usage
from dsmoe.analysis.vocabulary import Vocabulary
from dsmoe.errors import SteeringError
from dsmoe.models.routers import find_routers

RECORDS = random_records(8) + random_records(8, "beta")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """A family of each kind of router."""
    return str(request.param)


def test_tensors_of_two_devices_do_not_meet(model: PreTrainedModel) -> None:
    """So what these tests are made of can fail."""
    with spread(model):
        there = place(torch.ones(2), SECOND)
        assert (there + there).device == SECOND
        with pytest.raises(RuntimeError, match="same device"):
            _ = there + torch.ones(2)
        with pytest.raises(RuntimeError, match="same device"):
            _ = there[torch.ones(2, dtype=torch.bool)]
        assert torch.equal(there.cpu() + torch.ones(2), torch.full((2,), 2.0))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_discovery(family: str, checkpointing: bool, tokenizer: Any) -> None:
    expected = discover(random_model(family), tokenizer, RECORDS)
    model = random_model(family)
    with spread(model):
        found = discover(model, tokenizer, RECORDS, checkpointing=checkpointing)
    assert found.report.threshold == pytest.approx(expected.report.threshold, rel=1e-6)
    for name in ("important", "unimportant", "special"):
        assert torch.equal(getattr(found.counts, name), getattr(expected.counts, name))
    torch.testing.assert_close(found.counts.gate_weights, expected.counts.gate_weights)


@pytest.mark.parametrize("mode", ["logit", "score", "gate", "force"])
def test_steering(family: str, mode: str) -> None:
    ids = torch.randint(5, 150, (3, 20), generator=torch.Generator().manual_seed(0))

    def steered(model: PreTrainedModel) -> Any:
        first, *_, last = find_routers(model)
        with torch.no_grad(), steer(model, Steering({first.layer: (1, 5), last.layer: (0, 3)}, 2.0, mode)) as watch:
            return model(input_ids=ids).logits, watch.take()

    try:
        expected, changed = steered(random_model(family))
    except (InputError, SteeringError):
        pytest.skip(f"{family} has no mode {mode}")
    model = random_model(family)
    with spread(model):
        logits, counted = steered(model)
    assert torch.equal(logits, expected)
    assert counted == changed


def evidence(model: PreTrainedModel, tokenizer: Any, folder: Path) -> Sequence[pa.Table]:
    passages = from_records(RECORDS)
    layers = [router.layer for router in find_routers(model)]
    vocabulary = Vocabulary.of(tokenizer, passages)
    usage = Usage(vocabulary.domains, layers, 8)
    labels = PermutedLabels(passages, len(layers), 8, 19, 0, folder / "counts")
    routed = RandomRouters(vocabulary, len(layers), 8, 19, 0)
    direction, similarity = Direction(layers), Similarity(passages, layers, 50, 19, 0)
    observe(model, tokenizer, passages, [usage, labels, routed, direction, similarity], 700)
    existence = Existence.of(usage, labels, routed, vocabulary)
    return [usage.table(), existence.table(), direction.table(), *similarity.tables().values()]


def test_analysis(family: str, tokenizer: Any, tmp_path: Path) -> None:
    expected = evidence(random_model(family), tokenizer, tmp_path)
    model = random_model(family)
    with spread(model):
        found = evidence(model, tokenizer, tmp_path)
    assert found == expected
