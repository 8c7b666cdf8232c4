"""LoRA on a loaded model: which weights it belongs on, putting an adapter on, and taking it off without a trace."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from dsmoe.baselines.adapter import WEIGHTS, check_adapter
from dsmoe.baselines.sharding import gathered, is_first
from dsmoe.baselines.untouched import untouched
from dsmoe.errors import InputError
from dsmoe.models import deepseek
from dsmoe.models.load import LoadedModel
from dsmoe.models.routers import decoder_layers, find_routers

PROJECTION = re.compile(r"\.(gate|up|gate_up|down)_proj(\.weight)?$")


def targets(model: PreTrainedModel) -> list[str]:
    """The gate, up and down projections of experts, shared experts and dense MLPs, named within their decoder layer.

    Raises InputError where a layer with a router has no expert projection among them.
    """
    found = [
        [name for name, weight in layer.named_parameters() if _is_projection(name, weight)]
        for layer in decoder_layers(model)
    ]
    for router in find_routers(model):
        if not any(map(_of_experts, found[router.layer])):
            raise InputError(
                f"sft: layer {router.layer} of model type {model.config.model_type!r} has a router, but no expert "
                f"weights named gate_up_proj, gate_proj, up_proj or down_proj, so LoRA cannot train its experts"
            )
    return sorted({name for names in found for name in names})


def rank_of(model: PreTrainedModel, names: Sequence[str], rank: float) -> int:
    """`rank` itself from 1 on; below 1 the rank at which LoRA on `names` has that share of the model's parameters."""
    if rank >= 1:
        return int(rank)
    shapes = [
        weight.shape for layer in decoder_layers(model) for name, weight in layer.named_parameters() if name in names
    ]
    parameters_a_rank: int = sum((shape[-2] + shape[-1]) * shape[:-2].numel() for shape in shapes)
    total: int = model.num_parameters()
    return max(1, round(rank * total / parameters_a_rank))


def new_adapter(model: PreTrainedModel, names: Sequence[str], rank: int, alpha: float) -> PeftModel:
    """A new adapter on the named weights, in place; only it wants gradients. The generator of torch starts it."""
    return _attached(model, _config(names, rank, alpha))


def adapted_weights(model: PreTrainedModel) -> list[str]:
    """The weights that an adapter is on, such as `layers.3.mlp.experts.down_proj`.

    Raises RuntimeError where a layer's experts have none, or a router would be trained.
    """
    names = {
        layer: [_weight_name(name, module) for name, module in block.named_modules() if isinstance(module, LoraLayer)]
        for layer, block in enumerate(decoder_layers(model))
    }
    for router in find_routers(model):
        if any(parameter.requires_grad for parameter in router.module.parameters()):
            raise RuntimeError(f"layer {router.layer}: the router would be trained")
        if not any(map(_of_experts, names[router.layer])):
            raise RuntimeError(
                f"layer {router.layer}: the adapter is not on the experts, only on {names[router.layer]}"
            )
    return [f"layers.{layer}.{name}" for layer, here in names.items() for name in sorted(here)]


def save_adapter(adapter: PeftModel, names: Sequence[str], rank: int, alpha: float, folder: Path) -> None:
    """Write the adapter's two files: the same bytes for the same adapter. Of several processes, the first one does."""
    state = gathered(get_peft_model_state_dict(adapter, save_embedding_layers=False))
    if not is_first():
        return
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS, {"format": "pt"})
    # The adapter's own config holds its names in a set, which would be written in another order by every process.
    _config(names, rank, alpha, inference_mode=True).save_pretrained(str(folder))


@contextmanager
def adapted(model: PreTrainedModel, folder: Path) -> Iterator[PreTrainedModel]:
    """`model` with the adapter in `folder` on, until the block ends; then it is exactly what it was.

    What is yielded is the model itself, in evaluation mode. Raises InputError for a folder that is no LoRA adapter or
    does not fit the model.
    """
    config = _read_config(folder)
    with untouched(model), safe_open(folder / WEIGHTS, framework="pt") as file:
        _load(_fitted(model, config, folder), {name: file.get_tensor(name) for name in file.keys()}, folder)  # noqa: SIM118
        model.eval()
        yield model.requires_grad_(False)


def save_merged(loaded: LoadedModel, adapter: Path, folder: Path) -> None:
    """Write the checkpoint that has the adapter in its weights. The model is used up.

    Raises InputError as `adapted` does.
    """
    with safe_open(adapter / WEIGHTS, framework="pt") as file:
        merged: Any = _fitted(loaded.model, _read_config(adapter), adapter)
        _load(merged, {name: file.get_tensor(name) for name in file.keys()}, adapter)  # noqa: SIM118
    merged.merge_and_unload().save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def check_fit(folder: Path, model_config: PreTrainedConfig) -> None:
    """Raise InputError unless `folder` holds a LoRA adapter of the right shapes for a model of that config.

    No weights are read, neither the model's nor the adapter's.
    """
    config = _read_config(folder)
    deepseek.register()
    with safe_open(folder / WEIGHTS, framework="pt") as file, torch.device("meta"):
        state = {name: torch.empty(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        model = AutoModelForCausalLM.from_config(model_config)
        _load(_fitted(model, config, folder), state, folder)


def _config(names: Sequence[str], rank: int, alpha: float, inference_mode: bool = False) -> LoraConfig:
    # All are named as parameters, none as modules: fused experts are no modules, and peft takes a shared expert's
    # module `gate_proj` for an expert of transformers 4 and leaves it out.
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_parameters=sorted(names),
        target_modules=[],
        task_type="CAUSAL_LM",
        inference_mode=inference_mode,
    )


def _read_config(folder: Path) -> LoraConfig:
    check_adapter(folder)
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (TypeError, ValueError) as error:
        raise InputError(f"sft.adapter: {folder}: peft cannot read its config: {_first_line(error)}") from error
    assert isinstance(config, LoraConfig)
    return config


def _attached(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    with warnings.catch_warnings():
        # peft asks transformers by a name that transformers is about to drop: nothing that a user can do about.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        adapter = get_peft_model(model, config)
    assert isinstance(adapter, PeftModel)
    return adapter


def _fitted(model: PreTrainedModel, config: LoraConfig, folder: Path) -> PeftModel:
    """The model with places for the adapter in the folder."""
    try:
        return _attached(model, config)
    except ValueError as error:
        raise InputError(f"sft.adapter: {folder} does not fit the model: {_first_line(error)}") from error


def _load(adapter: nn.Module, state: dict[str, torch.Tensor], folder: Path) -> None:
    where = f"sft.adapter: {folder} does not fit the model"
    try:
        outcome: Any = set_peft_model_state_dict(adapter, state)
    except RuntimeError as error:
        # torch names the module in a first line and each weight with its shapes in lines of their own.
        raise InputError(f"{where}: {str(error).strip().splitlines()[-1].strip()}") from error
    missing = [name for name in outcome.missing_keys if ".lora_" in name]
    for fault, names in (("it lacks", missing), ("the model has no place for", outcome.unexpected_keys)):
        if names:
            raise InputError(f"{where}: {fault} {len(names)} weights, such as {min(names)}")


def _is_projection(name: str, weight: nn.Parameter) -> bool:
    return weight.ndim in (2, 3) and PROJECTION.search(name) is not None


def _of_experts(name: str) -> bool:
    return "experts" in name.split(".")


def _weight_name(name: str, module: LoraLayer) -> str:
    own = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
    return f"{name.replace('.base_layer', '')}.{own}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
