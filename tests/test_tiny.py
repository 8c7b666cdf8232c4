"""The embedded model: reproducible to the bit, a stock checkpoint, a tokenizer for any text."""

import hashlib
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3MoeForCausalLM

from dsmoe.config import PretrainConfig
from dsmoe.domains.world import Statement
from dsmoe.models import tiny
from dsmoe.models.routers import find_routers

STATEMENTS = [Statement("things", f"The code of thing {number} is {number * 37 % 101}.") for number in range(60)]
CONFIG = PretrainConfig(
    hidden_size=32,
    num_layers=2,
    num_experts=4,
    top_k=2,
    expert_size=16,
    vocabulary_size=320,
    context_length=4096,
    steps=12,
    batch_tokens=256,
    learning_rate=3e-3,
    router_loss=0.001,
    planted_loss=None,
    seed=0,
)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, float]]]:
    folder = tmp_path_factory.mktemp("tiny")
    reports: list[tuple[int, float]] = []
    tiny.pretrain(folder, STATEMENTS, CONFIG, lambda step, loss: reports.append((step, loss)))
    return folder, reports


def test_same_config_same_bits(trained: tuple[Path, list[tuple[int, float]]], tmp_path: Path) -> None:
    folder, _ = trained
    torch.rand(3)  # The caller's random state has no say.
    tiny.pretrain(tmp_path, STATEMENTS, CONFIG)
    assert digests(tmp_path) == digests(folder)
    assert "model.safetensors" in digests(folder)


def test_reports_every_step_and_learns(trained: tuple[Path, list[tuple[int, float]]]) -> None:
    _, reports = trained
    assert [step for step, _ in reports] == list(range(1, CONFIG.steps + 1))
    assert reports[-1][1] < reports[0][1] - 0.5


def test_leaves_threads_and_random_state_alone(tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    tiny.pretrain(tmp_path, STATEMENTS, CONFIG)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_loads_as_any_checkpoint(trained: tuple[Path, list[tuple[int, float]]]) -> None:
    folder, _ = trained
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(model, Qwen3MoeForCausalLM)
    assert model.config.max_position_embeddings >= 4096
    assert [router.num_experts for router in find_routers(model)] == [CONFIG.num_experts] * CONFIG.num_layers
    assert len(tokenizer) <= model.config.vocab_size
    tokens = tokenizer("The code of thing 5 is", return_tensors="pt")
    logits = model(**tokens).logits
    assert logits.shape == (1, tokens["input_ids"].shape[1], CONFIG.vocabulary_size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    "text",
    ["The code of thing 5 is 84.", "A. ½ cup\nB. ∫₀¹ x² dx\n\nAnswer (A, B):", " 东京\t🙂  é\r\n", "<html>&amp;\x00~"],
)
def test_any_text_survives_the_tokenizer(trained: tuple[Path, list[tuple[int, float]]], text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained[0])
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.pad_token_id not in ids
    assert tokenizer.eos_token_id not in ids
