"""DeepSeek-MoE (arXiv 2401.06066) for transformers 5, which has every part of it, but no class of that name.

Its language model is the one inside DeepSeek-OCR-2; what is added here is the head, the form of its config.json, and
the names of its weights. The checkpoint's own code is for transformers 4 and is never run.
"""

from functools import cache
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, DeepseekV2ForCausalLM, GenerationMixin
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.models.deepseek_ocr2.configuration_deepseek_ocr2 import DeepseekOcr2TextConfig
from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import (
    DeepseekOcr2TextModel,
    DeepseekOcr2TextPreTrainedModel,
)

from dsmoe.errors import InputError

FIXED = {"scoring_func": "softmax", "norm_topk_prob": False, "topk_method": "greedy", "routed_scaling_factor": 1.0}
"""What others of DeepSeek's models choose in their config.json, and this one does not."""


class DeepseekConfig(DeepseekOcr2TextConfig):  # type: ignore[misc]
    """The config.json of DeepSeek-MoE. Raises InputError where it wants another router than the published one."""

    model_type = "deepseek"
    base_config_key = ""

    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1
    scoring_func: str = "softmax"
    norm_topk_prob: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for key, only in FIXED.items():
            value = getattr(self, key)
            if value != only:
                raise InputError(f"config.json: {key} is {value!r}; model type {self.model_type!r} knows only {only!r}")
        self.mlp_layer_types = [
            "sparse" if layer >= self.first_k_dense_replace and layer % self.moe_layer_freq == 0 else "dense"
            for layer in range(self.num_hidden_layers)
        ]
        # A checkpoint that we save has no such files beside it.
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)


class DeepseekForCausalLM(DeepseekOcr2TextPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """DeepSeek-MoE with its language modelling head."""

    config: DeepseekConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        self.model = DeepseekOcr2TextModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    # A head's forward is the same in all of transformers: it knows `model`, `lm_head` and `loss_function`.
    forward = DeepseekV2ForCausalLM.forward

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers would look for the experts in the source of this module.
        can_set: bool = DeepseekOcr2TextModel._can_set_experts_implementation()
        return can_set


@cache
def register() -> None:
    """Have the Auto classes of transformers load DeepSeek-MoE natively, also where remote code is trusted."""
    AutoConfig.register(DeepseekConfig.model_type, DeepseekConfig, exist_ok=True)
    AutoModelForCausalLM.register(DeepseekConfig, DeepseekForCausalLM, exist_ok=True)
    # Its checkpoints name each expert's projections as Qwen2-MoE's do; the model has them fused.
    register_checkpoint_conversion_mapping(
        DeepseekConfig.model_type, get_checkpoint_conversion_mapping("qwen2_moe"), overwrite=True
    )
