"""What a model needs, against what it really takes: parameters, cache, what autograd keeps, memory at the peak."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, random_model
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PreTrainedModel

from dsmoe import InputError
from dsmoe.compose import compose_cells
from dsmoe.config import Config
from dsmoe.discovery.saliency import salient_batches
from dsmoe.methods import discovers
from dsmoe.models.fit import Machine, check_fits, gpus, machine
from dsmoe.models.footprint import cached, kept_for_backward
from dsmoe.models.needs import Needs, needs

SLACK = 1.5
"""How far above what autograd keeps an estimate may lie."""
PEAK_SLACK = 2.3
"""How far above the peak of a model of three layers, where what one layer has for a moment weighs much."""
DTYPES = ["float32", "bfloat16"]
SCALED = {
    "wide experts": (
        "intermediate_size",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "intermediate_size_mlp",
    ),
    "wide stream": ("hidden_size",),
    "many heads": ("num_attention_heads",),
}
"""Sizes that are those of another shape, so that each term of the sum weighs much in one of them."""


@cache
def composed(*overrides: str) -> Config:
    (one,) = compose_cells(["model=checkpoint", "model.path=given", *overrides])
    return one.config


def needs_of(folder: Path, *overrides: str) -> Needs:
    config = composed(*overrides)
    return needs(replace(config, model=replace(config.model, path=str(folder))), discovers(config))


def prompts(count: int, length: int) -> list[list[int]]:
    """Prompts of random tokens; the last is shorter, so that there is padding and a mask, as in discovery."""
    draw = torch.Generator().manual_seed(0)
    ids: list[list[int]] = torch.randint(3, 150, (count, length), generator=draw).tolist()
    ids[-1] = ids[-1][: length - 5]
    return ids


def discover(model: PreTrainedModel, count: int, length: int, checkpointing: bool = False) -> None:
    (_,) = salient_batches(model, iter([prompts(count, length)]), checkpointing)


def own_storages(model: PreTrainedModel) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}


def bytes_kept(model: PreTrainedModel, run: Callable[[], None]) -> int:
    """Bytes that autograd keeps for backward, each storage once, and no weights."""
    own, kept = own_storages(model), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # Holding it, no address is used again.
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(size for size, _ in kept.values())


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes that were alive at once, weights left out."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._own = own_storages(model)
        self._alive: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self._own:
                storage = tensor.untyped_storage()
                alive = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._alive.setdefault(storage._cdata, (alive, storage.nbytes()))
        self._alive = {key: one for key, one in self._alive.items() if not one[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return result


def scaled(family: str, *attributes: str, by: int) -> PreTrainedModel:
    """A random model of the family with some sizes of its tiny shape multiplied."""
    config = CONFIGS[family]()
    for name in attributes:
        if getattr(config, name, None):
            setattr(config, name, by * getattr(config, name))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ["tiny", "long", "wide experts", "wide stream", "many heads"])
def test_activations_are_bounded_by_what_autograd_keeps(family: str, dtype: str, shape: str) -> None:
    length = 256 if shape == "long" else 64
    if shape == "many heads" and family.startswith("deepseek"):
        pytest.skip("latent attention has as many heads of keys")
    model = scaled(family, *SCALED.get(shape, ()), by=4).to(getattr(torch, dtype))
    config, width = model.config, getattr(torch, dtype).itemsize
    ends = 4 * config.hidden_size + 4 * config.vocab_size  # the last norm's input, and the softmax over the vocabulary
    layers = kept_for_backward(model, length, width, config._attn_implementation)
    kept = bytes_kept(model, lambda: discover(model, 2, length))
    assert kept <= 2 * length * (sum(layers) + ends) <= SLACK * kept


@pytest.mark.parametrize("dtype", DTYPES)
def test_eager_attention_keeps_its_probabilities(dtype: str) -> None:
    model = random_model("qwen3_moe").to(getattr(torch, dtype))
    model.set_attn_implementation("eager")
    kept = bytes_kept(model, lambda: discover(model, 2, 128))
    ends = 4 * model.config.hidden_size + 4 * model.config.vocab_size
    found = sum(kept_for_backward(model, 128, getattr(torch, dtype).itemsize, "eager"))
    assert kept <= 2 * 128 * (found + ends) <= SLACK * kept


@pytest.mark.parametrize("dtype", DTYPES)
def test_discovery_is_bounded_by_its_peak(family: str, dtype: str, tmp_path: Path) -> None:
    model = random_model(family).to(getattr(torch, dtype))
    model.config.save_pretrained(tmp_path)
    found = needs_of(tmp_path, f"model.dtype={dtype}", "discovery.batch_tokens=512")
    with Peak(model) as peak:
        discover(model, 2, 256)
    assert peak.most <= found.discovery_plain <= PEAK_SLACK * peak.most
    with Peak(model) as peak:
        discover(model, 2, 256, checkpointing=True)
    assert peak.most <= found.discovery_checkpointed <= PEAK_SLACK * peak.most


@pytest.mark.parametrize("dtype", DTYPES)
def test_evaluation_is_bounded_by_its_peak(family: str, dtype: str, tmp_path: Path) -> None:
    model = random_model(family).to(getattr(torch, dtype))
    model.config.save_pretrained(tmp_path)
    found = needs_of(tmp_path, f"model.dtype={dtype}", "benchmark.batch_size=2", "methods=[base]")
    assert (found.sequences, found.tokens, found.discovery) == (2, 256, 0)
    ids = torch.ones(2, found.tokens, dtype=torch.long)
    with torch.no_grad(), Peak(model) as peak:
        model(ids).logits.log_softmax(dim=-1)
    assert peak.most <= found.evaluation <= PEAK_SLACK * peak.most


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 63, 100])
def test_the_cache_is_that_of_transformers(family: str, dtype: str, tokens: int) -> None:
    model = random_model(family).to(getattr(torch, dtype))
    with torch.no_grad():
        filled = model(torch.ones(3, tokens, dtype=torch.long), use_cache=True).past_key_values
    held = []
    for layer in filled.layers:
        states = (
            (*layer.conv_states.values(), *layer.recurrent_states.values())
            if hasattr(layer, "conv_states")
            else (layer.keys, layer.values)
        )
        held.append(sum(state.numel() * state.element_size() for state in states))
    assert [3 * size for size in cached(model, tokens, getattr(torch, dtype).itemsize)] == held


def test_parameters_are_those_of_the_model(family: str, tmp_path: Path) -> None:
    model = random_model(family)
    model.config.save_pretrained(tmp_path)
    found = needs_of(tmp_path)
    assert found.parameters == model.num_parameters()
    assert found.embedding == model.get_input_embeddings().weight.numel()
    assert (found.weights, found.architecture) == (4 * found.parameters, model.config.model_type)
    assert needs_of(tmp_path, "model.dtype=bfloat16").weights == 2 * found.parameters


@pytest.mark.parametrize(
    ("family", "layers", "expert"),
    # hidden size 32, experts 16 wide: three projections, and gpt-oss's biases; 6 of 8 experts are idle
    [("mixtral", 3, 3 * 16 * 32), ("qwen3_moe", 2, 3 * 16 * 32), ("gpt_oss", 3, 3 * 16 * 32 + 2 * 16 + 32)],
)
def test_idle_experts_are_not_active(family: str, layers: int, expert: int, tmp_path: Path) -> None:
    CONFIGS[family]().save_pretrained(tmp_path)
    found = needs_of(tmp_path)
    assert found.parameters - found.active == layers * 6 * expert


def test_the_embedded_model_is_counted_from_its_shape() -> None:
    (one,) = compose_cells([])
    found = needs(one.config, discovers(one.config))
    assert (found.path, found.architecture, found.stored) == (None, "qwen3_moe", None)
    hidden, layers, experts, width, vocabulary = 128, 4, 16, 128, 2048
    attention = 4 * hidden * hidden + 2 * 32
    layer = attention + experts * 3 * hidden * width + experts * hidden + 2 * hidden
    assert found.parameters == vocabulary * hidden + layers * layer + hidden


def test_tasks_that_generate_hold_a_longer_cache_and_fewer_logits(tmp_path: Path) -> None:
    config = CONFIGS["olmoe"]()
    config.max_position_embeddings = 4096
    config.save_pretrained(tmp_path)
    scored = needs_of(tmp_path, "benchmark=letter")
    generated = needs_of(tmp_path, "benchmark=mmlu_pro", "benchmark.max_new_tokens=1000")
    assert (scored.tokens, generated.tokens) == (512, 2048 + 512 + 1000)
    assert generated.cache * 512 == scored.cache * generated.tokens
    assert needs_of(tmp_path, "benchmark=mmlu_pro").tokens == 4096  # its context


def test_the_size_of_the_checkpoint_is_read_where_it_can_be(tmp_path: Path) -> None:
    model = random_model("olmoe")
    (tmp_path / "silent").mkdir()
    model.config.save_pretrained(tmp_path / "silent")
    assert needs_of(tmp_path / "silent").stored is None
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(tmp_path)
    guess = needs_of(tmp_path)
    assert (guess.stored, guess.stored_known) == (2 * guess.parameters, False)
    (tmp_path / "index").mkdir()
    model.config.save_pretrained(tmp_path / "index")
    (tmp_path / "index" / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 123}}')
    assert needs_of(tmp_path / "index").stored == 123
    model.save_pretrained(tmp_path / "whole")
    whole = needs_of(tmp_path / "whole")
    assert (whole.stored, whole.stored_known) == ((tmp_path / "whole" / "model.safetensors").stat().st_size, True)


def test_gpus_have_an_allowance() -> None:
    assert gpus(70.9e9, 80e9) == 1  # 90% of 80 GB less 1 GiB is 70.926 GB
    assert gpus(71e9, 80e9) == 2
    with pytest.raises(InputError, match=r"cluster\.gpu_memory_gb: 1\.0 GB is no more"):
        gpus(1, 1e9)


def test_the_config_says_what_there_is() -> None:
    two = composed("cluster.gpus=2", "cluster.gpu_memory_gb=40", "cluster.memory_gb=100").cluster
    there = machine(two, composed().model)
    assert there == Machine(2, 40e9, 100e9)
    assert (there.room, there.usable) == (80e9, 2 * (36e9 - 2**30))
    on_cpu = composed("model.device=cpu").model
    assert machine(two, on_cpu).room == 100e9
    assert machine(composed("cluster.gpus=0").cluster, on_cpu).memory > 1e8


def test_what_may_not_fit_names_its_key(tmp_path: Path) -> None:
    CONFIGS["olmoe"]().save_pretrained(tmp_path)
    found = needs_of(tmp_path, "discovery.batch_tokens=512", "benchmark.batch_size=4")
    assert check_fits(found, Machine(0, 0, found.total)) == []
    lines = check_fits(found, Machine(0, 0, found.weights + found.evaluation / 4))
    assert [line.partition(":")[0] for line in lines] == ["benchmark.batch_size", "discovery.batch_tokens"]
    assert "4 sequences of 256 tokens want" in lines[0]
    assert lines[0].endswith("lower it to 1")
    half = check_fits(found, Machine(0, 0, found.weights + max(found.evaluation, found.discovery / 2)))
    assert [line.partition(":")[0] for line in half] == ["discovery.batch_tokens"]
    assert check_fits(found, Machine(0, 0, found.weights))[0].endswith("not even 1 of them fits")
    with pytest.raises(InputError, match=r"^cluster\.memory_gb: model checkpoint has 0\.. MB of weights"):
        check_fits(found, Machine(0, 0, found.weights - 1))
