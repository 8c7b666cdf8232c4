"""What a GPU could do otherwise than the CPU: `make test-gpu`. The same tests run on the CPU everywhere."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, random_model, random_records, word_tokenizer
from router_oracle import by_hand, outputs
from transformers import PreTrainedModel

from dsmoe import Steering, discover, steer
from dsmoe.cli import main
from dsmoe.models.routers import find_routers
from dsmoe.results import Results, RoutingChange

FAMILIES = ["deepseek_v3", "gpt_oss", "olmoe", "phimoe", "qwen3_moe"]
SPREAD = 1e-4
"""Largest difference of logits in float32 that rounding may make; they are of order 1."""


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU, and a GPU where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here")
    return str(request.param)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """A family of each kind of router."""
    return str(request.param)


def some_steering(model: PreTrainedModel) -> Steering:
    first, *_, last = find_routers(model)
    return Steering({first.layer: (1, 5), last.layer: (0, 3, 6)}, 4.0)


def test_base_against_base_is_the_noise_floor(family: str, device: str) -> None:
    model = random_model(family).to(device)
    for one, other in zip(outputs(model, 0), outputs(model, 0), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=SPREAD)


def test_steered_logits_equal_those_of_routers_written_by_hand(family: str, device: str) -> None:
    model = random_model(family).to(device)
    steering = some_steering(model)
    with steer(model, steering) as watch:
        steered, change = outputs(model, 0), watch.take()
    with by_hand(model, steering) as changed:
        expected = outputs(model, 0)
    for ours, oracle in zip(steered, expected, strict=True):
        assert torch.allclose(ours, oracle, rtol=0, atol=SPREAD)
    assert change == RoutingChange(choices=len(changed), changed=sum(changed))


def test_bf16_follows_float32(family: str, device: str) -> None:
    """Most tokens: one whose choice of experts turns by rounding may differ by any amount."""
    exact = random_model(family).to(device)
    steering = some_steering(exact)
    with steer(exact, steering):
        expected = outputs(exact, 0)[0]
    rounded = random_model(family).to(device, torch.bfloat16)
    with steer(rounded, steering):
        found = outputs(rounded, 0)[0].float()
    differences = (found - expected).abs().amax(dim=-1)
    assert differences.median() < 0.05 * expected.std()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_discovery_counts_as_on_the_cpu(family: str, device: str, dtype: str) -> None:
    profiles = [
        discover(random_model(family).to(place, kind), word_tokenizer(), random_records(20))
        for place, kind in (("cpu", torch.float32), (device, getattr(torch, dtype)))
    ]
    plain, other = (profile.counts.total for profile in profiles)
    turned = (plain - other).abs().sum() / 2
    assert turned <= (0.05 if dtype == "bfloat16" else 0.001) * plain.sum()


def test_the_whole_comparison(family: str, device: str, tmp_path: Path, capsys: Any) -> None:
    random_model(family).save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    overrides = [
        "model=checkpoint", f"model.path={tmp_path / 'model'}", "model.threads=1", f"model.device={device}",
        "model.dtype=bfloat16", "domain=chemistry", "benchmark.non_target=[biology]", "benchmark.limit=4",
        "discovery.limit=8", "sft.train_size=8", "sft.epochs=1", "steering.num_experts=3",
        f"paths.results={tmp_path / 'results'}",
    ]  # fmt: skip
    assert main(["compare", *overrides]) == 0
    (path,) = tmp_path.glob("results/default/*/results.json")
    results = Results.read(path)
    assert results.provenance["model"]["device"] == device
    assert {row.method for row in results.rows} == {"chance", "base", "sft", "dsmoe", "random"}


def test_the_families_are_known() -> None:
    assert set(FAMILIES) <= set(CONFIGS)
