"""The SFT baseline: it learns, it trains what it should, and the model that it borrowed comes back as it was."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
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
from trl.trainer import base_trainer

from dsmoe.baselines import sft
from dsmoe.baselines.adapter import CONFIG, WEIGHTS, check_adapter
from dsmoe.baselines.likelihood import accuracy, encode, log_likelihoods
from dsmoe.baselines.lora import adapted, check_fit, rank_of, targets
from dsmoe.baselines.sft import Training, fine_tune
from dsmoe.config import SftConfig
from dsmoe.domains.prompts import evaluation_prompt
from dsmoe.domains.records import Record
from dsmoe.errors import InputError

GRIDS: dict[str, Any] = {"learning_rate_grid": (1e-3,), "epochs_grid": (1,), "processes": 1}
SETTINGS = SftConfig(
    adapter=None, rank=0.027, alpha=16.0, learning_rate=5e-3, epochs=24, batch_size=8, train_size=None, **GRIDS
)
QUICK = SftConfig(adapter=None, rank=2, alpha=4.0, learning_rate=1e-3, epochs=1, batch_size=8, train_size=None, **GRIDS)
WORDS = ("amber", "birch", "cobalt", "denim", "ember", "fern", "garnet", "hazel", "iris")
RECORDS = [
    Record(
        id=str(number),
        domain="colours",
        question=f"The colour of thing {number * 7} is",
        options=tuple(WORDS[(number * 4 + shift) % 9] for shift in range(4)),
        answer=number % 4,
    )
    for number in range(36)
]
COMMON: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts_per_tok": 2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 1,
    "initializer_range": 0.15,
}
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **COMMON,
            head_dim=16,
            num_experts=8,
            moe_intermediate_size=64,
            intermediate_size=48,
            mlp_only_layers=[1],
            router_aux_loss_coef=0.5,
            output_router_logits=True,
        )
    ),
    "olmoe": lambda: OlmoeForCausalLM(OlmoeConfig(**COMMON, num_experts=8, intermediate_size=64)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**COMMON, num_local_experts=8, intermediate_size=64)),
    "qwen2_moe": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            **COMMON,
            num_experts=8,
            moe_intermediate_size=64,
            shared_expert_intermediate_size=64,
            intermediate_size=48,
            mlp_only_layers=[0],
        )
    ),
}
FUSED = {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
DENSE = {"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}
SHARED = {f"mlp.shared_expert.{name}_proj.weight" for name in ("gate", "up", "down")}


def build(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FAMILIES[family]()
    model.set_experts_implementation("grouped_mm" if dtype != torch.float64 else "eager")
    model.to(dtype).eval()
    return model


def state(model: PreTrainedModel) -> dict[str, Any]:
    """All that must not change, by value and by identity."""
    return {
        "classes": [(name, type(module), module.training) for name, module in model.named_modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "parameters": [(name, id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()],
        "bits": [tensor.numpy(force=True).tobytes() for tensor in model.state_dict().values()],
        "names": list(model.state_dict()),
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
    }


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|pad|>", "<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([f"{r.question} {' '.join(r.options)}" for r in RECORDS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return build("qwen3_moe")


@pytest.fixture(scope="module")
def trained(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Training]:
    folder = tmp_path_factory.mktemp("adapter")
    return folder, fine_tune(model, tokenizer, RECORDS, "option_text", SETTINGS, 0, folder)


@pytest.fixture
def copied(trained: tuple[Path, Training], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "copy"))


def test_learns(trained: tuple[Path, Training]) -> None:
    _, training = trained
    assert training.accuracy_before < 0.5
    assert training.accuracy_after >= 0.9
    assert len(training.losses) == SETTINGS.epochs * 5
    assert training.losses[-1] < training.losses[0] - 1
    assert 0.02 < training.share < 0.04


def test_reports_every_step_and_says_nothing(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Any] = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(base_trainer, "send_telemetry", lambda *args, **kwargs: told.append(args))
    monkeypatch.chdir(tmp_path)
    steps: list[tuple[int, int, float]] = []
    training = fine_tune(
        model, tokenizer, RECORDS, "letter", QUICK, 0, tmp_path / "adapter", lambda *step: steps.append(step)
    )
    assert steps == [(number, 5, loss) for number, loss in enumerate(training.losses, start=1)]
    assert capfd.readouterr() == ("", "")
    assert not told
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [f"adapter/{CONFIG}", f"adapter/{WEIGHTS}"]
    assert tokenizer.pad_token is None


@pytest.mark.parametrize("family", FAMILIES)
def test_trains_all_experts_no_router_and_leaves_the_model_as_it_was(
    family: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = build(family)
    next(model.parameters()).requires_grad_(False)
    model.train()
    before = state(model)
    training = fine_tune(model, tokenizer, RECORDS, "option_text", QUICK, 0, tmp_path)
    assert state(model) == before

    def expected(layer: int) -> set[str]:
        if layer in (getattr(model.config, "mlp_only_layers", None) or []):
            return DENSE
        return FUSED | SHARED if family == "qwen2_moe" else FUSED

    assert set(training.weights) == {f"layers.{layer}.{name}" for layer in range(3) for name in expected(layer)}
    weights = load_file(tmp_path / WEIGHTS)
    assert len(weights) == 2 * len(training.weights)
    assert sum(weight.numel() for weight in weights.values()) == training.parameters
    assert all(weight.abs().max() > 0 for weight in weights.values())

    check_fit(tmp_path, model.config)
    with adapted(model, tmp_path) as changed:
        assert accuracy(changed, tokenizer, RECORDS, "option_text", 8) == training.accuracy_after
        assert not any(parameter.requires_grad for parameter in changed.parameters())
    assert state(model) == before


def test_leaves_the_model_as_it_was_after_an_exception(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, trained: tuple[Path, Training], tmp_path: Path
) -> None:
    def fail(step: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(model, tokenizer, RECORDS, "option_text", QUICK, 0, tmp_path, fail)
    assert state(model) == before
    with pytest.raises(KeyboardInterrupt), adapted(model, trained[0]):
        raise KeyboardInterrupt
    assert state(model) == before


def test_same_seed_same_bytes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fine_tune(model, tokenizer, RECORDS, "option_text", QUICK, seed, tmp_path / name)
        torch.rand(3)
    a, b, c = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    assert a[WEIGHTS] != c[WEIGHTS]
    assert a[CONFIG] == c[CONFIG]


def test_loss_is_cross_entropy_of_the_right_option_alone(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = build("qwen3_moe")
    assert model.config.output_router_logits
    settings = replace(QUICK, batch_size=len(RECORDS))
    (loss,) = fine_tune(model, tokenizer, RECORDS, "option_text", settings, 0, tmp_path).losses
    exact = build("qwen3_moe", torch.float64)
    summed, tokens = 0.0, 0
    for record in RECORDS:
        context, options = evaluation_prompt(record, "option_text")
        right = encode(tokenizer, context, options[record.answer])
        ids = torch.tensor([right.ids])
        logits = exact(input_ids=ids).logits[0, right.start - 1 : -1]
        summed += functional.cross_entropy(logits, ids[0, right.start :], reduction="sum").item()
        tokens += len(right.ids) - right.start
    assert loss == pytest.approx(summed / tokens, rel=1e-5)


def test_bfloat16_trains_a_float32_adapter(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = build("qwen3_moe", torch.bfloat16)
    training = fine_tune(model, tokenizer, RECORDS, "option_text", SETTINGS, 0, tmp_path)
    assert training.losses[-1] < training.losses[0] - 1
    assert {weight.dtype for weight in load_file(tmp_path / WEIGHTS).values()} == {torch.float32}
    with adapted(model, tmp_path):
        assert accuracy(model, tokenizer, RECORDS, "option_text", 8) == training.accuracy_after
    with pytest.raises(InputError, match="float16"):
        fine_tune(model.half(), tokenizer, RECORDS, "option_text", QUICK, 0, tmp_path)


def test_checkpointing_changes_nothing(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(model)
    plain = fine_tune(model, tokenizer, RECORDS, "option_text", QUICK, 0, tmp_path)
    monkeypatch.setattr(sft, "CHECKPOINTING_FROM", 0)
    assert fine_tune(model, tokenizer, RECORDS, "option_text", QUICK, 0, tmp_path) == plain
    assert state(model) == before


def test_rank_is_a_number_or_a_share(model: PreTrainedModel) -> None:
    names = targets(model)
    assert rank_of(model, names, 7) == 7
    assert rank_of(model, names, 0.2) == pytest.approx(10 * rank_of(model, names, 0.02), abs=10)
    assert rank_of(model, names, 1e-6) == 1


def test_refuses_no_records_and_a_loss_that_is_no_number(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = build("olmoe")
    with pytest.raises(InputError, match="no questions"):
        fine_tune(model, tokenizer, [], "option_text", QUICK, 0, tmp_path)
    model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match=r"sft\.learning_rate: the loss is nan at step 1"):
        fine_tune(model, tokenizer, RECORDS, "option_text", QUICK, 0, tmp_path)


def test_refuses_experts_that_it_cannot_name(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsmoe.baselines.lora._of_experts", lambda name: False)
    with pytest.raises(InputError, match="layer 0 of model type 'qwen3_moe'"):
        targets(model)


def test_adapted_generates_and_is_scored_by_lm_eval(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, trained: tuple[Path, Training]
) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="<|pad|>", eos_token="<|end|>"
    )
    with adapted(model, trained[0]) as changed:
        harness = HFLM(pretrained=changed, tokenizer=tokenizer, batch_size=8)
        pairs = [
            (context, option)
            for context, options in (evaluation_prompt(record, "option_text") for record in RECORDS[:6])
            for option in options
        ]
        assert [harness._encode_pair(*pair) for pair in pairs] == [
            (item.ids[: item.start], item.ids[item.start :]) for item in (encode(tokenizer, *pair) for pair in pairs)
        ]
        requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
        scores = [score for score, _ in harness.loglikelihood(requests, disable_tqdm=True)]
        ours = log_likelihoods(changed, [encode(tokenizer, *pair) for pair in pairs], 8)
        assert scores == pytest.approx(ours, rel=1e-4)
        context, options = evaluation_prompt(RECORDS[0], "option_text")
        ids = torch.tensor([tokenizer.encode(context)])
        made = changed.generate(ids, max_new_tokens=4, do_sample=False)
        assert tokenizer.decode(made[0, ids.shape[1] :]).startswith(options[RECORDS[0].answer])


def refusal(folder: Path, model: PreTrainedModel) -> str:
    """What `check_adapter` and `check_fit` say, in one line."""
    with pytest.raises(InputError) as caught:
        check_fit(folder, model.config)
    with pytest.raises(InputError), adapted(model, folder):
        pass
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"sft.adapter: {folder}")
    return message


def edit(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(content | changes))


def test_bad_folders(copied: Path, model: PreTrainedModel, tmp_path: Path) -> None:
    check_adapter(copied)
    assert "is not a folder" in refusal(tmp_path / "none", model)
    edit(copied, init_lora_weights="pissa")
    assert "changes the base model's own weights" in refusal(copied, model)
    edit(copied, peft_type="IA3")
    assert "peft_type is 'IA3'; allowed is 'LORA'" in refusal(copied, model)
    (copied / CONFIG).write_text("[]")
    assert "is not a JSON object" in refusal(copied, model)
    (copied / CONFIG).write_text("{")
    assert "is not JSON" in refusal(copied, model)
    (copied / CONFIG).unlink()
    assert f"has no {CONFIG}" in refusal(copied, model)


def test_bad_weights(copied: Path, model: PreTrainedModel) -> None:
    weights = load_file(copied / WEIGHTS)
    some = sorted(weights)[0]
    save_file({name: weight for name, weight in weights.items() if name != some}, copied / WEIGHTS)
    assert "lacks 1 weights" in refusal(copied, model)
    save_file({**weights, "base_model.model.nowhere.lora_A.weight": torch.zeros(2, 2)}, copied / WEIGHTS)
    assert "no place for 1 weights" in refusal(copied, model)
    save_file({**weights, some: weights[some][:, :-1].contiguous()}, copied / WEIGHTS)
    assert "size mismatch" in refusal(copied, model)
    save_file({"weight": torch.zeros(2)}, copied / WEIGHTS)
    assert "no LoRA weights" in refusal(copied, model)
    (copied / WEIGHTS).write_bytes(b"torn")
    assert "not a whole safetensors file" in refusal(copied, model)
    (copied / WEIGHTS).rename(copied / "adapter_model.bin")
    assert "pickled weights are not read" in refusal(copied, model)


def test_an_adapter_for_another_model_does_not_fit(trained: tuple[Path, Training]) -> None:
    assert "does not fit the model" in refusal(trained[0], build("olmoe"))


def test_an_adapter_on_attention_is_welcome(model: PreTrainedModel, tmp_path: Path) -> None:
    other = build("qwen3_moe")
    get_peft_model(other, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).save_pretrained(
        str(tmp_path), save_embedding_layers=False
    )
    check_fit(tmp_path, model.config)
    before = state(model)
    with adapted(model, tmp_path):
        assert any("lora" in name for name, _ in model.named_parameters())
    assert state(model) == before
