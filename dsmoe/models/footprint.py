"""What the decoder layers of a model keep in memory for a token, from their shapes alone: weights may be on meta.

For backward, autograd keeps what the gradient of the input needs; weights are frozen, so a linear map keeps nothing but
its weight. What is left is the same in all families: each norm its input, attention its queries, keys, values and
output, an expert its two halves, the activation, and the output that is weighted. `tests/test_needs.py` holds this to
what autograd really keeps.
"""

from typing import TYPE_CHECKING, Any

from torch import nn

from dsmoe.models.routers import Router, decoder_layers, find_routers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOAT32 = 4
"""Bytes of what is computed in float32 whatever the weights are: norms, routers, softmax, linear attention."""
CHUNK = 64
"""Tokens that linear attention takes at a time."""
COPIES = 2
"""Of the scores of attention beside its probabilities: as they are multiplied, and masked."""
HALVES = {"gpt_oss": 6}
"""Widths of an expert's hidden layer that its activation keeps, where it is not the gate, the other half and silu."""
EVERY_EXPERT = frozenset({"llama4_text"})
"""Families that run every token through all experts, and weigh by 0 those that were not chosen."""


def kept_for_backward(model: "PreTrainedModel", length: int, width: int, attention: str) -> list[float]:
    """Bytes a token and layer that a backward pass to the input embeddings needs, at most.

    The token stands in a padded batch of prompts of `length` tokens; `width` is the bytes of one number of the model's
    dtype, `attention` the implementation: eager attention keeps its probabilities, which grow with the length.
    """
    routers = {router.layer: router for router in find_routers(model)}
    hidden = model.config.hidden_size
    found = []
    for number, layer in enumerate(decoder_layers(model)):
        kept = _Kept(width)
        kept.float32(2 * hidden)
        kept.native(length)  # The mask, of which each layer makes its own.
        if hasattr(layer, "linear_attn"):
            _linear_attention(kept, layer.linear_attn, length)
        else:
            _attention(kept, layer.self_attn, length, attention)
        _experts(kept, layer, routers.get(number), hidden, model.config.model_type)
        found.append(kept.bytes)
    return found


def passing(model: "PreTrainedModel", length: int, width: int, attention: str) -> float:
    """Bytes a token that one layer has for a moment and keeps nothing of: attention's scores, while it makes them."""
    layers = (layer.self_attn for layer in decoder_layers(model) if hasattr(layer, "self_attn"))
    return COPIES * max((_probabilities(one, length, width, attention) for one in layers), default=0.0)


def cached(model: "PreTrainedModel", tokens: int, width: int) -> list[int]:
    """Bytes a layer that a sequence of `tokens` tokens has in the key-value cache, as transformers makes it."""
    from transformers import DynamicCache

    found: list[int] = []
    for layer, cache in zip(decoder_layers(model), DynamicCache(config=model.config).layers, strict=True):
        if hasattr(layer, "linear_attn"):
            linear: Any = layer.linear_attn
            states = linear.num_v_heads * linear.head_k_dim * linear.head_v_dim
            found.append(width * linear.conv_dim * linear.conv_kernel_size + FLOAT32 * states)
            continue
        # A window counts the token that is being made, which is not yet in the cache.
        window = getattr(cache, "sliding_window", None)
        found.append(width * (tokens if window is None else min(tokens, window - 1)) * _cached_numbers(layer.self_attn))
    return found


class _Kept:
    """A sum of bytes, over numbers in the model's dtype and numbers in float32."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.bytes = 0.0

    def native(self, numbers: float) -> None:
        self.bytes += self.width * numbers

    def float32(self, numbers: float) -> None:
        self.bytes += FLOAT32 * numbers


def _cached_numbers(attention: Any) -> int:
    """Numbers a token in the cache: keys and values, or what multi-head latent attention makes both of."""
    if hasattr(attention, "kv_b_proj"):
        return int(attention.kv_lora_rank + attention.qk_rope_head_dim)
    return int(attention.k_proj.out_features + attention.v_proj.out_features)


def _attention(kept: _Kept, attention: Any, length: int, implementation: str) -> None:
    maps = {name: module for name, module in attention.named_modules() if isinstance(module, nn.Linear)}
    heads = attention.config.num_attention_heads
    values = maps.pop("o_proj").in_features
    queries = heads * getattr(attention, "qk_head_dim", values // heads)
    # Under a mask, keys and values are repeated for every head.
    kept.native(2 * (queries + values))
    kept.float32(heads)  # The logarithm of the sum under each softmax.
    if any("norm" in name for name, _ in attention.named_modules()):
        kept.float32(sum(module.out_features for module in maps.values()) + 2 * heads)
    if "q_proj" in maps and maps["q_proj"].out_features > queries:  # The other half is a gate on the output.
        kept.native(2 * queries)
    kept.bytes += _probabilities(attention, length, kept.width, implementation)


def _probabilities(attention: Any, length: int, width: int, implementation: str) -> float:
    """Bytes a token that attention keeps of its probabilities, 0 where a fused kernel has none."""
    numbers = attention.config.num_attention_heads * (length + 1)
    if implementation == "eager":
        # A softmax in float32 is kept as it is and as it goes on; one with sinks is made in the model's dtype.
        twice = width < FLOAT32 and not hasattr(attention, "sinks")
        return float(numbers * (width + FLOAT32 * twice))
    # Not every fused kernel takes keys wider than values; sdpa then has probabilities too.
    wider = getattr(attention, "qk_head_dim", None) != getattr(attention, "v_head_dim", None)
    return float(FLOAT32 * numbers * wider)


def _linear_attention(kept: _Kept, attention: Any, length: int) -> None:
    """The gated delta rule as transformers computes it without kernels of its own."""
    keys, values, heads = attention.head_k_dim, attention.head_v_dim, attention.num_v_heads
    padded = -(-length // CHUNK) * CHUNK / length
    kept.float32(attention.in_proj_qkvz.out_features + 3 * attention.conv_dim)
    kept.float32(padded * heads * (5 * CHUNK + 18 * max(keys, values) + keys * values / CHUNK))


def _experts(kept: _Kept, layer: nn.Module, router: Router | None, hidden: int, family: str) -> None:
    """Routed experts, if the layer has a router, and those that see every token: shared ones, or a dense layer's."""
    routed = always = 0.0
    for name, parameter in layer.named_parameters():
        if name.endswith(("down_proj", "down_proj.weight")):
            if ".experts." in name:
                routed += parameter.numel() / hidden
            else:
                always += parameter.numel() / hidden
    if always:
        kept.native(3 * always + hidden)
    if router is None:
        return
    runs = router.num_experts if family in EVERY_EXPERT else router.top_k
    kept.native(runs * hidden + HALVES.get(family, 3) * routed * runs / router.num_experts)
    # Scores before and after softmax or sigmoid, and the order of the choices, in integers of eight bytes.
    kept.float32(4 * router.num_experts + 12 * runs)
