"""The model: where it comes from and how it runs."""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from dsmoe.config.types import Count, Device, Dtype, Positive, Seed, Text


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    hidden_size: Count
    """Width of the residual stream."""
    num_layers: Count
    """Decoder layers, each with a router."""
    num_experts: Count
    """Experts a layer."""
    top_k: Count
    """Experts that a token is routed to."""
    expert_size: Count
    """Hidden width of one expert."""
    vocabulary_size: Count
    """Tokens of the byte-level BPE tokenizer that is trained with the model."""
    context_length: Count
    """Longest input in tokens."""
    steps: Count
    """Optimizer steps."""
    batch_tokens: Count
    """Tokens a step."""
    learning_rate: Positive
    """Peak learning rate of AdamW."""
    router_loss: Annotated[float, Interval(ge=0, lt=math.inf)]
    """Weight of the auxiliary load-balancing loss."""
    planted_loss: Positive | None
    """Weight of the routers' loss toward the planted experts of a positive control; null plants none."""
    seed: Seed
    """Seeds the weights and the order of the text."""

    def __post_init__(self) -> None:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k is {self.top_k}, but there are {self.num_experts} experts a layer")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    name: Text
    """What tables call the model."""
    path: str | None
    """A checkpoint folder or a Hub id; null for an embedded model."""
    revision: str | None
    """Branch, tag or commit on the Hub."""
    dtype: Dtype
    """Number type of the weights."""
    device: Device
    """Where the model runs; auto takes a GPU where there is one."""
    device_map: Text | None
    """How layers are spread over several GPUs, for accelerate: auto, balanced, sequential…; null is auto."""
    threads: Count | None
    """CPU threads; null leaves them to torch. Another number gives other bits."""
    attn_implementation: Text | None
    """How attention is computed: eager, sdpa, flash_attention_2…; null leaves it to transformers."""
    experts_implementation: Text | None
    """How the experts are computed: eager, grouped_mm…; null leaves it to transformers."""
    trust_remote_code: bool
    """Run Python code that comes with the checkpoint."""
    pretrain: PretrainConfig | None
    """The embedded model's shape and training; null where there is a path."""

    def __post_init__(self) -> None:
        if (self.path is None) == (self.pretrain is None):
            raise ValueError("path and pretrain: exactly one of them is given")
