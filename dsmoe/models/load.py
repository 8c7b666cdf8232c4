"""Loading a model and its tokenizer, to be run, never trained as a whole."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dsmoe.config import ModelConfig
from dsmoe.errors import InputError
from dsmoe.models import checkpoint
from dsmoe.models.routers import RouterShape, check_family, shape_of
from dsmoe.remembered import Answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in evaluation mode, and its tokenizer."""

    model: "PreTrainedModel"
    tokenizer: Any


@dataclass(frozen=True, slots=True)
class Node:
    """Where a model runs, as far as its bits depend on that: the kind of device, and CPU threads."""

    device: str
    threads: int


def this_node(config: ModelConfig) -> Node:
    """The node that this machine is. Raises InputError where a GPU is asked for and there is none."""
    return Node(device_of(config), threads_of(config))


def device_of(config: ModelConfig) -> str:
    """`cpu` or `cuda`. Raises InputError where a GPU is asked for and there is none."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("model.device: cuda is asked for, but torch sees no GPU here; allowed are cpu and auto")
    return "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"


def threads_of(config: ModelConfig) -> int:
    """CPU threads that the model runs with."""
    return config.threads or torch.get_num_threads()


def router_shape(config: ModelConfig) -> RouterShape:
    """How the model routes, read from its config alone: no weights are loaded. Raises InputError if it does not."""
    if config.pretrain:
        layers = range(config.pretrain.num_layers)
        experts = dict.fromkeys(layers, config.pretrain.num_experts)
        return RouterShape("qwen3_moe", len(layers), config.pretrain.top_k, experts)
    return SHAPES[config, checkpoint.held_by(config)]


def _shape(config: ModelConfig, held: checkpoint.Held | None) -> RouterShape:
    """The shape of a model's routing; the weights of a folder are matched to its config, but stay on disk."""
    if held is not None:
        checkpoint.check_folder(Path(config.path or ""))
        model, _ = _from_pretrained(config.path or "", trust_remote_code=config.trust_remote_code, device_map="meta")
        return shape_of(model)
    from transformers import AutoModelForCausalLM

    shape = checkpoint.model_config(config)
    with torch.device("meta"):
        return shape_of(AutoModelForCausalLM.from_config(shape, trust_remote_code=config.trust_remote_code))


SHAPES: Answers[tuple[ModelConfig, checkpoint.Held | None], RouterShape] = Answers(_shape)
"""What is known of models in this process, and of what their folders held."""


def context_length(config: ModelConfig) -> int | None:
    """The longest sequence in tokens that the model's config allows, None where it does not say."""
    if config.pretrain:
        return config.pretrain.context_length
    length: int | None = getattr(checkpoint.model_config(config), "max_position_embeddings", None)
    return length


def tokenizer_of(config: ModelConfig) -> Any:
    """The tokenizer of the checkpoint at `model.path`. Raises InputError where it cannot be loaded."""
    try:
        return _tokenizer(str(config.path), revision=config.revision, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # tokenizers raises bare Exceptions.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"model.path: the tokenizer of {config.path} cannot be loaded: {reason}") from error


@lru_cache(maxsize=1)
def load_model(path: str, config: ModelConfig, weights: str) -> LoadedModel:
    """The model of `fresh_model`, loaded once for all cells of a sweep.

    `weights` is a hash of what lies at the path: if that changed, the model that was loaded before will not do.
    """
    return fresh_model(path, config)


def let_go() -> None:
    """Forget the model that was loaded, so that its memory is free once nobody else holds it."""
    load_model.cache_clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fresh_model(path: str, config: ModelConfig, processes: int = 1) -> LoadedModel:
    """The model at `path`, a folder or a Hub id, as the config wants it run; nobody else has it.

    Where several `processes` of torch.distributed load it at once, each gets, and reads, its share of the weights.
    Raises InputError for a checkpoint that lacks weights, or whose weights do not fit its config: transformers would go
    on with random ones.
    """
    torch.set_num_threads(threads_of(config))
    device = device_of(config)
    implementations = {
        "attn_implementation": config.attn_implementation,
        "experts_implementation": config.experts_implementation,
    }
    model, tokenizer = _from_pretrained(
        path,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        dtype=getattr(torch, config.dtype),
        device_map=config.device_map or "auto" if device == "cuda" and processes == 1 else None,
        **(_sharded(processes) if processes > 1 else {}),
        **{key: value for key, value in implementations.items() if value is not None},
    )
    if away := sorted({str(place) for place in getattr(model, "hf_device_map", {}).values()} & {"cpu", "disk"}):
        raise InputError(
            f"model.device_map: {path} does not fit the GPUs: parts of it would lie on {' and '.join(away)}, where "
            "routers can be neither watched nor steered; use more GPUs"
        )
    return LoadedModel(model.eval(), tokenizer)


def _sharded(processes: int) -> dict[str, Any]:
    from transformers.distributed.configuration_utils import DistributedConfig

    return {"distributed_config": DistributedConfig(fsdp_size=processes)}


def _from_pretrained(path: str, **settings: Any) -> tuple["PreTrainedModel", Any]:
    from transformers import AutoModelForCausalLM

    from dsmoe.models import deepseek

    deepseek.register()
    common = {key: settings[key] for key in ("revision", "trust_remote_code") if key in settings}
    try:
        with _quiet():
            tokenizer = _tokenizer(path, **common)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                **settings,
                **_plain_weights(path, **common),
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # Broken checkpoints end in errors of every kind; tokenizers raises bare Exceptions.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if "automatic conversion of the weights" in reason:
            reason = "weights that belong together, such as those of a layer's experts, are missing or do not fit"
        raise InputError(f"model.path: {path} cannot be loaded: {reason}") from error
    model, loading = loaded
    for fault, names in (
        ("lacks", loading["missing_keys"]),
        ("has weights of another shape for", [key for key, *_ in loading["mismatched_keys"]]),
    ):
        if names:
            raise InputError(
                f"model.path: {path} {fault} {len(names)} of the model's weights, such as {sorted(names)[0]}"
            )
    check_family(model.config.model_type, f"model.path: {path}")
    return model, tokenizer


def _plain_weights(path: str, **settings: Any) -> dict[str, Any]:
    """The settings by which quantised weights are loaded as plain ones, wherever transformers can.

    Discovery wants gradients through them, and kernels for quantised experts bypass the router, as MXFP4's do.
    """
    from transformers import AutoConfig
    from transformers.quantizers.auto import AutoQuantizationConfig

    found = getattr(AutoConfig.from_pretrained(path, **settings), "quantization_config", None)
    quantisation = AutoQuantizationConfig.from_dict(found) if isinstance(found, dict) else found
    if quantisation is None or not hasattr(quantisation, "dequantize"):
        return {}
    quantisation.dequantize = True
    return {"quantization_config": quantisation}


def _tokenizer(path: str, **settings: Any) -> Any:
    """The tokenizer at `path`, which begins a text with the BOS token where its config wants that."""
    from transformers import AutoTokenizer
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    tokenizer = AutoTokenizer.from_pretrained(path, **settings)
    declared = get_tokenizer_config(path, **settings)
    # transformers 5 believes tokenizer.json alone. DeepSeek's does not say it, because Llama's class used to see to it.
    of_llama = str(declared.get("tokenizer_class")).startswith("LlamaTokenizer")
    if of_llama and declared.get("add_bos_token") and tokenizer.bos_token_id not in tokenizer("a").input_ids:
        tokenizer.add_bos_token = True
    return tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and its own report of a load: what is wrong with a checkpoint, we say."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
