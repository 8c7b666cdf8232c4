"""What running a model needs, from its config alone: parameters, and bytes of weights, cache and activations.

Nothing is loaded or downloaded but JSON. `docs/models.md` says how the numbers are made.
"""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dsmoe.config import GENERATES, Config, ModelConfig
from dsmoe.errors import InputError
from dsmoe.models import checkpoint
from dsmoe.models.footprint import FLOAT32, cached, kept_for_backward, passing
from dsmoe.models.forwards import CHECKPOINTING_FROM
from dsmoe.models.implementations import check_implementations
from dsmoe.models.routers import find_routers
from dsmoe.remembered import Answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPT, EXAMPLES = 512, 2048
"""Tokens that a prompt is assumed to have, and those of the examples before it in tasks that generate."""
INDEX = "model.safetensors.index.json"
PACKED = 4.25 / 8
"""Bytes of a weight in MXFP4: 4 bits, and a scale of 8 bits for 32 of them."""
BESIDE = 2
"""Bytes of each of the weights beside them, which stay in bfloat16."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model needs at the settings of one config, in parameters and bytes.

    `active` parameters are those that take part in one token, the whole embedding among them; `stored` is the size of
    the checkpoint, estimated from its config unless `stored_known`. `evaluation` is one batch of `sequences` sequences
    of `tokens` tokens, its key-value `cache` included; `discovery_plain` is one forward and backward pass over
    `discovery_tokens` padded tokens, 0 where nothing is discovered, `discovery_checkpointed` the same with activations
    made again layer by layer, and `checkpointing` says which of them the config wants. None of them holds the weights.
    Fine-tuning is not in it.
    """

    name: str
    path: str | None
    architecture: str
    dtype: str
    parameters: int
    active: int
    embedding: int
    weights: int
    stored: int | None
    stored_known: bool
    sequences: int
    tokens: int
    cache: int
    evaluation: int
    discovery_tokens: int
    discovery_plain: int
    discovery_checkpointed: int
    checkpointing: bool

    @property
    def discovery(self) -> int:
        """Bytes of one forward and backward pass, as the config has it run."""
        return self.discovery_checkpointed if self.checkpointing else self.discovery_plain

    @property
    def total(self) -> int:
        """Bytes at the peak: the weights, and the larger one of evaluation and discovery."""
        return self.weights + max(self.evaluation, self.discovery)


def needs(config: Config, discovers: bool) -> Needs:
    """What the config's model needs at the config's batch sizes; `discovers` says whether it discovers experts.

    Raises InputError where the model's config cannot be had, or is of no family whose routers are known.
    """
    benchmark = config.benchmark
    generated = benchmark.max_new_tokens if benchmark.task in GENERATES else None
    model = config.model
    discovery_tokens = config.discovery.batch_tokens if discovers else 0
    held = checkpoint.held_by(model)
    return NEEDS[model, held, benchmark.batch_size, generated, discovery_tokens, config.discovery.checkpointing]


def _needs(
    config: ModelConfig,
    held: checkpoint.Held | None,
    sequences: int,
    generated: int | None,
    discovery_tokens: int,
    checkpointing: bool | None,
) -> Needs:
    """The same, by all that it depends on."""
    if held is not None:
        checkpoint.check_config(Path(config.path or ""))
    model = _outline(config)
    shape = model.config
    width = getattr(torch, config.dtype).itemsize
    attention = config.attn_implementation or shape._attn_implementation
    context = getattr(shape, "max_position_embeddings", None) or math.inf
    tokens = int(min(context, PROMPT if generated is None else EXAMPLES + PROMPT + generated))
    prompt = int(min(context, PROMPT, discovery_tokens or PROMPT))
    hidden, vocabulary = shape.hidden_size, shape.vocab_size
    cache = sequences * sum(cached(model, tokens, width))
    # Tasks that generate want the logits of the last token only; the others all of them, before and after softmax.
    logits = sequences * vocabulary * width * (1 if generated is not None else 2 * tokens)
    layer = max(kept_for_backward(model, tokens, width, attention)) + passing(model, tokens, width, attention)
    layers = kept_for_backward(model, prompt, width, attention)
    moment = max(layers) + passing(model, prompt, width, attention) + vocabulary * width
    # The gradient turns back at the logits: there they are in the model's dtype and, in float32, their softmax, its
    # gradient and theirs. Further down, a layer has about as much again of gradients.
    turning = vocabulary * (width + 3 * FLOAT32)
    ends = hidden * (FLOAT32 + width)
    whole = sum(layers) + ends + max(turning, moment)
    checkpointed = len(layers) * hidden * width + ends + max(turning, max(layers) + moment)
    parameters, active = count(model)
    stored, known = _stored(config, model, parameters)
    return Needs(
        name=config.name,
        path=config.path,
        architecture=shape.model_type,
        dtype=config.dtype,
        parameters=parameters,
        active=active,
        embedding=model.get_input_embeddings().weight.numel(),
        weights=parameters * width,
        stored=stored,
        stored_known=known,
        sequences=sequences,
        tokens=tokens,
        cache=cache,
        evaluation=math.ceil(cache + max(logits, sequences * tokens * (layer + 2 * hidden * width))),
        discovery_tokens=discovery_tokens,
        discovery_plain=math.ceil(discovery_tokens * whole),
        discovery_checkpointed=math.ceil(discovery_tokens * checkpointed),
        checkpointing=parameters >= CHECKPOINTING_FROM if checkpointing is None else checkpointing,
    )


NEEDS: Answers[tuple[ModelConfig, checkpoint.Held | None, int, int | None, int, bool | None], Needs] = Answers(_needs)
"""What is known of models in this process: computed once for all cells of a sweep."""


def count(model: "PreTrainedModel") -> tuple[int, int]:
    """Parameters of a model, all of them and those that take part in one token; weights may be on meta."""
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = 0
    for router in find_routers(model):
        within = f".layers.{router.layer}."
        experts = sum(parameter.numel() for name, parameter in _routed(model) if within in f".{name}")
        idle += experts - experts * router.top_k // router.num_experts
    return total, total - idle


def _routed(model: "PreTrainedModel") -> list[tuple[str, torch.nn.Parameter]]:
    """The parameters of the routed experts, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if ".experts." in name]


def _outline(config: ModelConfig) -> "PreTrainedModel":
    """The model without its weights. Raises InputError where its config makes none, or one without routers."""
    from transformers import AutoModelForCausalLM

    where = "model.pretrain" if config.path is None else f"model.path: {config.path}"
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                architecture_of(config), trust_remote_code=config.trust_remote_code
            )
        find_routers(model)
        check_implementations(config, model)
    except InputError as error:
        raise InputError(str(error) if str(error).startswith("model.") else f"{where}: {error}") from error
    except Exception as error:  # A config can be wrong in any way.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: no model can be made of its config: {reason[:200]}") from error
    return model.eval()


def architecture_of(config: ModelConfig) -> Any:
    """The transformers config of what is run: quantised weights are loaded as plain ones, which routers need."""
    if config.pretrain is not None:
        from dsmoe.models.tiny import architecture

        return architecture(config.pretrain, config.pretrain.vocabulary_size)
    found = copy.deepcopy(checkpoint.model_config(config))
    if hasattr(found, "quantization_config"):
        del found.quantization_config
    return found


def _stored(config: ModelConfig, model: "PreTrainedModel", parameters: int) -> tuple[int | None, bool]:
    """Bytes of the checkpoint, and whether they are known or estimated from the config; None where it has none."""
    if config.pretrain is not None:
        return None, True
    local = checkpoint.is_local(config)
    folder = Path(config.path or "")
    if local and (files := list(folder.glob("*.safetensors"))):
        return sum(file.stat().st_size for file in files), True
    index = folder / INDEX if local else _index_on_hub(config)
    try:
        if index is not None:
            return int(json.loads(index.read_text(encoding="utf-8"))["metadata"]["total_size"]), True
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = checkpoint.model_config(config)
    quantised = getattr(found, "quantization_config", None)
    dtype = getattr(found, "dtype", None)
    if quantised is None:
        return (parameters * dtype.itemsize if dtype else None), False
    if dict(quantised).get("quant_method") != "mxfp4":
        return None, False
    packed = sum(parameter.numel() for name, parameter in _routed(model) if name.endswith("_proj"))
    return math.ceil(packed * PACKED + (parameters - packed) * BESIDE), False


def _index_on_hub(config: ModelConfig) -> Path | None:
    """The index of a checkpoint on the Hub, None where it has none or it cannot be had."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(config.path or "", INDEX, revision=config.revision))
    except (OSError, ValueError, HfHubHTTPError):
        return None
