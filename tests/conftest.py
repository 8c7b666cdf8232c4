"""What tests share: one torch thread, tiny random models of every family, records, outside data where there is some."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from dsmoe.domains.records import LETTERS, Record

torch.set_num_threads(1)

SHARED = Path(__file__).parents[2] / "shared"
"""Data and golden outputs that do not come with the project."""

WORDS = ["the", "of", "and", "is", "in", "which", "what", "to", "a", *(f"word{number}" for number in range(150))]
MARKS = list(".?,:()")
SIZES = {
    "vocab_size": 3 + len(WORDS) + len(MARKS) + 26 + 1,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
FAMILIES = {
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **SIZES,
            num_experts=8,
            moe_intermediate_size=16,
            intermediate_size=48,
            head_dim=8,
            norm_topk_prob=True,
            mlp_only_layers=[1],
        )
    ),
    "qwen2_moe": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            **SIZES,
            num_experts=8,
            moe_intermediate_size=16,
            intermediate_size=48,
            shared_expert_intermediate_size=16,
            norm_topk_prob=False,
        )
    ),
    "olmoe": lambda: OlmoeForCausalLM(OlmoeConfig(**SIZES, num_experts=8, intermediate_size=16)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=8, intermediate_size=16)),
}


def random_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A tiny model of a family with random weights, its routers sharp enough to prefer some experts."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FAMILIES[family]()
        for name, parameter in model.named_parameters():
            if name.endswith("gate.weight"):
                torch.nn.init.normal_(parameter, std=0.5)
    model.eval()
    return model


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are words, marks and letters; none of them is white space."""
    vocabulary = ["<pad>", "<eos>", "<unk>", "Answer", *WORDS, *MARKS, *LETTERS]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="right"
    )


def random_records(count: int, domain: str = "alpha", seed: int = 0) -> list[Record]:
    """Records of random words: questions of 4 to 30 words, four options of 1 to 4."""
    draw = random.Random(f"{domain} {seed}")

    def words(fewest: int, most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(fewest, most)))

    return [
        Record(
            id=f"{domain}-{number}",
            domain=domain,
            question=f"{words(4, 30)} ?",
            options=tuple(words(1, 4) for _ in range(4)),
            answer=draw.randrange(4),
            source="test",
            group=f"{domain}-{number}",
        )
        for number in range(count)
    ]


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return str(request.param)


@pytest.fixture
def model(family: str) -> PreTrainedModel:
    """A tiny random model of each family."""
    return random_model(family)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The word tokenizer."""
    return word_tokenizer()
