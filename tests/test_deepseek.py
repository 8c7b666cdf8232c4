"""DeepSeek-MoE, loaded from a checkpoint as DeepSeek published it, against the whole model written out in float64."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_model
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel

from dsmoe.config import ModelConfig
from dsmoe.errors import InputError
from dsmoe.models.deepseek import DeepseekForCausalLM
from dsmoe.models.load import LoadedModel, load_model, router_shape

Weights = dict[str, torch.Tensor]

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
CONFIG = {
    "architectures": ["DeepseekForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekConfig",
        "AutoModel": "modeling_deepseek.DeepseekModel",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekForCausalLM",
    },
    "aux_loss_alpha": 0.001,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "model_type": "deepseek",
    "moe_intermediate_size": 16,
    "moe_layer_freq": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.36.0",
    "use_cache": True,
    "vocab_size": 258,
}
"""The config.json of deepseek-moe-16b-base, of another size."""


def is_sparse(config: dict[str, Any], layer: int) -> bool:
    return layer >= config["first_k_dense_replace"] and layer % config["moe_layer_freq"] == 0


def random_weights(config: dict[str, Any]) -> Weights:
    """Random weights by their published names, each expert's apart."""
    draw = torch.Generator().manual_seed(0)
    hidden, size = config["hidden_size"], config["hidden_size"] // config["num_attention_heads"]
    keys = config["num_key_value_heads"] * size
    weights: Weights = {}

    def matrix(name: str, rows: int, columns: int, scale: float = 0.2) -> None:
        weights[f"{name}.weight"] = torch.randn(rows, columns, generator=draw) * scale

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = 1 + torch.randn(hidden, generator=draw) * 0.2

    def mlp(name: str, inner: int) -> None:
        matrix(f"{name}.gate_proj", inner, hidden)
        matrix(f"{name}.up_proj", inner, hidden)
        matrix(f"{name}.down_proj", hidden, inner)

    matrix("model.embed_tokens", config["vocab_size"], hidden, 1.0)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name, rows in (("q_proj", hidden), ("k_proj", keys), ("v_proj", keys), ("o_proj", hidden)):
            matrix(f"{at}.self_attn.{name}", rows, hidden)
        norm(f"{at}.input_layernorm")
        norm(f"{at}.post_attention_layernorm")
        if not is_sparse(config, layer):
            mlp(f"{at}.mlp", config["intermediate_size"])
            continue
        matrix(f"{at}.mlp.gate", config["n_routed_experts"], hidden, 0.5)
        for expert in range(config["n_routed_experts"]):
            mlp(f"{at}.mlp.experts.{expert}", config["moe_intermediate_size"])
        mlp(f"{at}.mlp.shared_experts", config["moe_intermediate_size"] * config["n_shared_experts"])
    norm("model.norm")
    matrix("lm_head", config["vocab_size"], hidden)
    return weights


def publish(folder: Path, begins: bool = True, **changes: Any) -> Weights:
    """Write a checkpoint as it is on the Hub, its config changed; what it says of code is not there. Its weights."""
    config = CONFIG | changes
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = random_weights(config)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    byte_vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(byte_vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.save(str(folder / "tokenizer.json"))
    declared = {
        "add_bos_token": begins,
        "add_eos_token": False,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "tokenizer_class": "LlamaTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(declared), encoding="utf-8")
    return weights


def model_config(folder: Path, trust_remote_code: bool = False, experts: str | None = None) -> ModelConfig:
    return ModelConfig("deepseek", str(folder), None, "float32", "cpu", None, 1, None, experts, trust_remote_code, None)


def load(folder: Path, trust_remote_code: bool = False, experts: str | None = None) -> LoadedModel:
    return load_model(str(folder), model_config(folder, trust_remote_code, experts), "")


def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(ids[None]).logits[0]
    return found


def by_hand(weights: Weights, config: dict[str, Any], ids: torch.Tensor) -> torch.Tensor:
    """The logits [tokens, vocabulary] of one prompt, as arXiv 2401.06066 and its Llama attention have them."""
    w = {name: weight.double() for name, weight in weights.items()}
    heads, size = config["num_attention_heads"], config["hidden_size"] // config["num_attention_heads"]
    length = len(ids)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt() * w[f"{name}.weight"]

    def mlp(name: str, x: torch.Tensor) -> torch.Tensor:
        gate, up = w[f"{name}.gate_proj.weight"] @ x, w[f"{name}.up_proj.weight"] @ x
        return w[f"{name}.down_proj.weight"] @ (gate / (1 + (-gate).exp()) * up)

    def rotated(x: torch.Tensor, position: int) -> torch.Tensor:
        """A head's vector as complex numbers, of which the first half is the real part, turned by the position."""
        pairs = torch.arange(size // 2, dtype=torch.float64)
        angles = position / config["rope_theta"] ** (2 * pairs / size)
        turned = torch.complex(x[: size // 2], x[size // 2 :]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((turned.real, turned.imag))

    def attention(name: str, x: torch.Tensor) -> torch.Tensor:
        q, k, v = ((x @ w[f"{name}.{kind}_proj.weight"].T).view(length, -1, size) for kind in "qkv")
        mixed = torch.zeros(length, heads, size, dtype=torch.float64)
        for head in range(heads):
            other = head * k.shape[1] // heads
            keys = [rotated(k[t, other], t) for t in range(length)]
            for t in range(length):
                query = rotated(q[t, head], t)
                scores = torch.stack([(query @ key / size**0.5).exp() for key in keys[: t + 1]])
                mixed[t, head] = scores / scores.sum() @ v[: t + 1, other]
        return mixed.flatten(1) @ w[f"{name}.o_proj.weight"].T

    def experts(name: str, x: torch.Tensor) -> torch.Tensor:
        odds = (w[f"{name}.gate.weight"] @ x).exp()
        p = odds / odds.sum()
        chosen = sorted(range(len(p)), key=lambda e: -float(p[e]))[: config["num_experts_per_tok"]]
        routed = sum((p[e] * mlp(f"{name}.experts.{e}", x) for e in chosen), torch.zeros_like(x))
        return routed + mlp(f"{name}.shared_experts", x)

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        x = x + attention(f"{at}.self_attn", norm(f"{at}.input_layernorm", x))
        feed = experts if is_sparse(config, layer) else mlp
        x = x + torch.stack([feed(f"{at}.mlp", token) for token in norm(f"{at}.post_attention_layernorm", x)])
    return norm("model.norm", x) @ w["lm_head.weight"].T


PROMPT = torch.randint(256, (24,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("experts", [None, "eager"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2, "rope_theta": 500},
        {"first_k_dense_replace": 0, "moe_layer_freq": 2},
        {"n_shared_experts": 1, "num_experts_per_tok": 1},
    ],
)
def test_a_published_checkpoint_gives_the_logits_of_the_model_written_by_hand(
    tmp_path: Path, changes: dict[str, Any], experts: str | None
) -> None:
    weights = publish(tmp_path, **changes)
    model = load(tmp_path, experts=experts).model
    expected = by_hand(weights, CONFIG | changes, PROMPT)
    assert expected.std() > 0.5
    assert (logits(model, PROMPT) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_the_checkpoints_own_code_is_never_asked_for(tmp_path: Path, trust_remote_code: bool) -> None:
    publish(tmp_path)
    assert type(load(tmp_path, trust_remote_code).model) is DeepseekForCausalLM
    shape = router_shape(model_config(tmp_path, trust_remote_code))
    assert shape.architecture == "deepseek"
    assert shape.num_experts == {1: 8, 2: 8, 3: 8}


def test_saved_and_loaded_again_it_is_the_same_model(tmp_path: Path) -> None:
    weights = publish(tmp_path / "published")
    model = load(tmp_path / "published").model
    expected = logits(model, PROMPT)
    model.save_pretrained(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(weights)
        assert all(torch.equal(file.get_tensor(name), weight) for name, weight in weights.items())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again, PROMPT), expected)
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_its_tokenizer_keeps_spaces_and_bytes(tmp_path: Path) -> None:
    publish(tmp_path)
    tokenizer = load(tmp_path).tokenizer
    text = "a fox,  42 über\nthe"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("begins", [True, False])
def test_a_text_begins_once_where_the_tokenizer_config_wants_it(tmp_path: Path, begins: bool) -> None:
    publish(tmp_path, begins)
    first = [CONFIG["bos_token_id"]] if begins else []
    for _ in range(2):
        tokenizer = load(tmp_path).tokenizer
        assert tokenizer("a fox").input_ids == first + tokenizer("a fox", add_special_tokens=False).input_ids
        load_model.cache_clear()
        tokenizer.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm_topk_prob", True),
        ("scoring_func", "sigmoid"),
        ("topk_method", "group_limited_greedy"),
        ("routed_scaling_factor", 2.5),
    ],
)
def test_another_router_than_the_published_one_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    publish(tmp_path, **{key: value})
    for read in (lambda: load(tmp_path), lambda: router_shape(model_config(tmp_path))):
        with pytest.raises(InputError, match=f"model.path: .*{key}.* is {value!r}.* only"):
            read()


def test_a_lost_expert_is_refused(tmp_path: Path) -> None:
    weights = publish(tmp_path)
    del weights["model.layers.2.mlp.experts.5.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="experts"):
        load(tmp_path)


def test_the_cache_changes_no_choice() -> None:
    model = random_model("deepseek")
    ids = torch.randint(3, 190, (2, 12), generator=torch.Generator().manual_seed(0))
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False}
    cached = model.generate(ids, use_cache=True, output_logits=True, return_dict_in_generate=True, **settings)
    without = model.generate(ids, use_cache=False, output_logits=True, return_dict_in_generate=True, **settings)
    assert cached.past_key_values.get_seq_length() > ids.shape[1]
    assert torch.equal(cached.sequences, without.sequences)
    assert torch.allclose(torch.stack(cached.logits), torch.stack(without.logits), rtol=0, atol=1e-5)


def test_loss_and_kept_logits_are_those_of_every_head() -> None:
    model = random_model("deepseek")
    ids = torch.randint(3, 190, (2, 12), generator=torch.Generator().manual_seed(0))
    whole = model(ids, labels=ids)
    wanted = torch.nn.functional.cross_entropy(whole.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert torch.allclose(whole.loss, wanted)
    assert torch.allclose(model(ids, logits_to_keep=2).logits, whole.logits[:, -2:], rtol=0, atol=1e-6)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    ids = torch.randint(3, 190, (2, 12), generator=torch.Generator().manual_seed(0))
    gradients = []
    for saves_memory in (False, True):
        model = random_model("deepseek").train()
        if saves_memory:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(ids, labels=ids).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(grad is not None for grad in gradients[0])
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
