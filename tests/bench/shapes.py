"""The shapes that are measured."""

import torch
from conftest import SIZES
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM


def model_of_size(layers: int, experts: int, hidden_size: int = 128, expert_size: int = 64) -> PreTrainedModel:
    """A random Qwen3-MoE, four experts a token."""
    torch.manual_seed(0)
    sizes = {**SIZES, "num_hidden_layers": layers, "hidden_size": hidden_size, "num_experts_per_tok": 4}
    config = Qwen3MoeConfig(**sizes, num_experts=experts, moe_intermediate_size=expert_size, head_dim=32)
    model = Qwen3MoeForCausalLM(config)
    model.eval()
    return model
