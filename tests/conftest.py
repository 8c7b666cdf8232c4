"""What tests share: one torch thread, tiny random models of every family, records, outside data where there is some."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["WANDB_MODE"] = "disabled"  # Seconds a cell; tests of tracking ask for it.

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    Ernie4_5_MoeConfig,
    Glm4MoeConfig,
    GptOssConfig,
    GraniteMoeConfig,
    Llama4TextConfig,
    MixtralConfig,
    OlmoeConfig,
    PhimoeConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)

from dsmoe.domains.records import LETTERS, Record
from dsmoe.models import deepseek
from dsmoe.models.routers import find_routers

torch.set_num_threads(1)
deepseek.register()

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
MIXTRAL_LIKE = {"num_local_experts": 8, "intermediate_size": 16}
QWEN_LIKE = {"num_experts": 8, "moe_intermediate_size": 16, "intermediate_size": 48}
GROUPED = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "intermediate_size": 48,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.5,
}
LATENT_ATTENTION = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
LINEAR_ATTENTION = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "deepseek": lambda: deepseek.DeepseekConfig(
        **SIZES,
        n_routed_experts=8,
        n_shared_experts=2,
        moe_intermediate_size=16,
        intermediate_size=48,
        first_k_dense_replace=1,
    ),
    "deepseek_v2": lambda: DeepseekV2Config(**SIZES | GROUPED | LATENT_ATTENTION, topk_method="group_limited_greedy"),
    "deepseek_v2_greedy": lambda: DeepseekV2Config(**SIZES | GROUPED | LATENT_ATTENTION, topk_method="greedy"),
    "deepseek_v3": lambda: DeepseekV3Config(**SIZES | GROUPED | LATENT_ATTENTION, norm_topk_prob=True),
    "ernie4_5_moe": lambda: Ernie4_5_MoeConfig(
        **SIZES, moe_num_experts=8, moe_k=2, moe_intermediate_size=16, intermediate_size=48, moe_num_shared_experts=1
    ),
    "glm4_moe": lambda: Glm4MoeConfig(**SIZES | GROUPED, norm_topk_prob=True, head_dim=8),
    "gpt_oss": lambda: GptOssConfig(**SIZES | MIXTRAL_LIKE, head_dim=8, sliding_window=64),
    "granitemoe": lambda: GraniteMoeConfig(**SIZES | MIXTRAL_LIKE),
    "llama4_text": lambda: Llama4TextConfig(
        **SIZES | MIXTRAL_LIKE, head_dim=8, intermediate_size_mlp=48, interleave_moe_layer_step=1
    ),
    "mixtral": lambda: MixtralConfig(**SIZES | MIXTRAL_LIKE),
    "olmoe": lambda: OlmoeConfig(**SIZES, num_experts=8, intermediate_size=16),
    "phimoe": lambda: PhimoeConfig(**SIZES | MIXTRAL_LIKE),
    "qwen2_moe": lambda: Qwen2MoeConfig(**SIZES | QWEN_LIKE, shared_expert_intermediate_size=16, norm_topk_prob=False),
    "qwen3_moe": lambda: Qwen3MoeConfig(**SIZES | QWEN_LIKE, head_dim=8, norm_topk_prob=True, mlp_only_layers=[1]),
    "qwen3_next": lambda: Qwen3NextConfig(
        **SIZES | QWEN_LIKE | LINEAR_ATTENTION, head_dim=8, shared_expert_intermediate_size=16
    ),
}
"""A tiny shape of every family, by a name that begins with its model type."""


def random_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A tiny model of a family with random weights, its routers sharp enough to prefer some experts.

    Correction biases are random too, where a router has one.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[family]())
        for router in find_routers(model):
            for name, tensor in (*router.module.named_parameters(), *router.module.named_buffers()):
                torch.nn.init.normal_(tensor, std=0.1 if "correction" in name else 0.5)
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


def quantised_gpt_oss(folder: Path) -> Path:
    """A gpt-oss checkpoint in the form of the published ones: experts in MXFP4, all else in bf16."""
    config = GptOssConfig(
        vocab_size=200, hidden_size=64, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=8, num_experts_per_tok=2, sliding_window=64,
        max_position_embeddings=256, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for router in find_routers(model):
        torch.nn.init.normal_(router.module.get_parameter("weight"), std=0.5)
    model.to(torch.bfloat16).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, width, height = weights.pop(name).shape
        weights[f"{name}_blocks"] = torch.randint(0, 256, (experts, height, width // 32, 16), dtype=torch.uint8)
        weights[f"{name}_scales"] = torch.randint(120, 124, (experts, height, width // 32), dtype=torch.uint8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens"],
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


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


@pytest.fixture(params=sorted(CONFIGS))
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
