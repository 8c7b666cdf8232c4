"""A router of vLLM whose logits are steered, and the proof on a live engine that its choices follow.

Imported inside of vLLM alone. The deltas are a buffer that compiled graphs and CUDA graphs read when they run, so other
deltas want no other graph.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.forward_context import set_forward_context
from vllm.model_executor.layers.fused_moe import GateLinear
from vllm.model_executor.models.utils import extract_layer_index
from vllm.platforms import current_platform

from dsmoe.errors import InputError, SteeringError
from dsmoe.models.routers import RouterShape
from dsmoe.steering.steering import Steering
from dsmoe.steering.vllm_asked import check_mode, wanted

PROBE_TOKENS = 16
OVERWHELMING = 1e4
"""A delta under which an expert is always, or never, chosen."""
log = logging.getLogger("vllm.dsmoe")


class SteeredGate(GateLinear):  # type: ignore[misc]
    """vLLM's router layer, with one float32 delta an expert added to its logits before the choice.

    In engines that nobody asked to steer it is vLLM's own, to the last operation.
    """

    def __init__(self, input_size: int, output_size: int, *args: Any, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(input_size, output_size, *args, prefix=prefix, **kwargs)
        self.layer = extract_layer_index(prefix) if wanted(get_current_vllm_config()) is not None else None
        if self.layer is not None:
            self.register_buffer("deltas", torch.zeros(output_size, dtype=torch.float32), persistent=False)

    def forward(self, x: torch.Tensor) -> Any:
        """The logits [tokens, experts] plus the deltas, in the number type of the logits."""
        output = super().forward(x)
        if self.layer is None:
            return output
        if isinstance(output, tuple):
            return output[0] + self.deltas.to(output[0].dtype), *output[1:]
        return output + self.deltas.to(output.dtype)


def steer_worker(worker: Any, content: Mapping[str, Any] | None) -> str:
    """Steer a worker's model by what `Steering.to_json` gave, or no more for None; what was done, in a line.

    Raises InputError where the steering does not fit the model, SteeringError where some layer's choice does not follow
    its gate; the model then stays steered as it was.
    """
    gates = _gates(worker)
    if content is None:
        for gate in gates.values():
            gate.deltas.zero_()
        return _said("steering: none")
    steering = Steering.from_json(content)
    check_mode(steering)
    steering.check_fit(_shape(worker, gates))
    _prove(worker, gates, steering)
    for layer, gate in gates.items():
        gate.deltas.copy_(_deltas(gate, steering.experts.get(layer, ()), math.log1p(steering.strength)))
    layers = ", ".join(map(str, steering.experts))
    return _said(
        f"steering: {steering.total_experts} experts in layers {layers} at strength {steering.strength:g}; "
        "proven on this engine: in each of these layers the choice follows the steered logits"
    )


def _said(line: str) -> str:
    log.info(line)
    return line


def _gates(worker: Any) -> dict[int, SteeredGate]:
    gates: dict[int, SteeredGate] = {}
    for module in worker.get_model().modules():
        if isinstance(module, SteeredGate) and module.layer is not None:
            if module.layer in gates:
                raise InputError(f"steering: layer {module.layer} has two routers; which one is meant is not known")
            gates[module.layer] = module
    if not gates:
        raise InputError(
            "steering: this engine has no router that can be steered: its model has none, or keeps them elsewhere than "
            'in vLLM\'s GateLinear, or it was started without additional_config={"dsmoe": {}}'
        )
    return gates


def _shape(worker: Any, gates: Mapping[int, SteeredGate]) -> RouterShape:
    config = worker.model_config.hf_text_config
    experts = {layer: gate.output_size for layer, gate in gates.items()}
    return RouterShape(config.model_type, config.num_hidden_layers, 0, experts)


def _deltas(gate: SteeredGate, experts: tuple[int, ...], delta: float) -> torch.Tensor:
    deltas = torch.zeros_like(gate.deltas)
    deltas[list(experts)] = delta
    return deltas


def _prove(worker: Any, gates: Mapping[int, SteeredGate], steering: Steering) -> None:
    """Layer by layer, the model's output must differ between its steered experts always chosen and never chosen.

    So the graph that runs here reads the deltas, and what comes after the gate goes by them. The same pass twice shows
    how far kernels differ by themselves.
    """
    before = {layer: gate.deltas.clone() for layer, gate in gates.items()}
    try:
        for gate in gates.values():
            gate.deltas.zero_()
        for layer, experts in steering.experts.items():
            gate = gates[layer]
            gate.deltas.copy_(_deltas(gate, experts, OVERWHELMING))
            always, again = _output(worker), _output(worker)
            gate.deltas.copy_(_deltas(gate, experts, -OVERWHELMING))
            never = _output(worker)
            gate.deltas.zero_()
            noise, moved = (always - again).abs().amax().item(), (always - never).abs().amax().item()
            if not moved > 10 * noise:
                raise SteeringError(
                    f"layer {layer}: the choice does not follow the steered logits: this engine bypasses its gate"
                )
    finally:
        for layer, gate in gates.items():
            gate.deltas.copy_(before[layer])


@torch.inference_mode()
def _output(worker: Any) -> torch.Tensor:
    """What the model, as the engine runs it, makes of a few tokens, before the head: [tokens, hidden], float32."""
    vocabulary = worker.model_config.get_vocab_size()
    tokens = torch.linspace(0, vocabulary - 1, PROBE_TOKENS, device=worker.device).long()
    with _silent_attention(), set_forward_context(None, worker.vllm_config, num_tokens=PROBE_TOKENS):
        output = worker.get_model()(
            input_ids=tokens.int(),
            positions=torch.arange(PROBE_TOKENS, device=worker.device),
            intermediate_tensors=None,
            inputs_embeds=None,
        )
    return (output[0] if isinstance(output, tuple) else output).float().clone()


@contextmanager
def _silent_attention() -> Iterator[None]:
    """Without metadata, attention gives zeros; on CPUs it would leave its output as the memory happens to be."""
    if not current_platform.is_cpu():
        yield
        return
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

    original = CPUAttentionBackendImpl.forward

    def forward(self: Any, layer: Any, q: Any, k: Any, v: Any, cache: Any, metadata: Any, output: Any, **_: Any) -> Any:
        return output.zero_()

    CPUAttentionBackendImpl.forward = forward
    try:
        yield
    finally:
        CPUAttentionBackendImpl.forward = original
