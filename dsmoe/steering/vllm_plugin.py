"""What vLLM loads of us: steering in stock vLLM, by the steering that its config or the environment names.

`additional_config={"dsmoe": {"steering": PATH}}` steers an engine from its start; `{"dsmoe": {}}`, or a null path,
makes it ready to be steered later by `collective_rpc("dsmoe_steer", args=(steering.to_json(),))`. The environment
variable DSMOE_STEERING=PATH is for where no config can be given. Where nothing is asked for, vLLM is as it was.

Written for vLLM 0.32. The layer that makes router logits is replaced, in the way that vLLM has for that; four methods
are wrapped, since for what they do it has none.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dsmoe.errors import InputError
from dsmoe.steering.vllm_asked import check_mode, wanted

METHOD = "dsmoe_steer"


def register() -> None:
    """The entry point; vLLM calls it in each of its processes. A fault here stops vLLM: nothing would be steered."""
    # Imported here: vLLM would log a failing import of this module, and go on unsteered.
    from vllm.config import VllmConfig
    from vllm.model_executor.custom_op import PluggableLayer, op_registry_oot
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.executor.abstract import Executor
    from vllm.v1.worker.worker_base import WorkerBase

    from dsmoe.steering.vllm_gate import SteeredGate, steer_worker

    if op_registry_oot.get("GateLinear") is SteeredGate:
        return
    PluggableLayer.register_oot(name="GateLinear")(SteeredGate)
    setattr(WorkerBase, METHOD, steer_worker)
    _wrap(VllmConfig, "compute_hash", _hash_with_gates)
    _wrap(Executor, "__init__", _refuse_early)
    _wrap(Executor, "compile_or_warm_up_model", _steer_from_start)
    _wrap(EngineCore, "collective_rpc", _forget_prefixes)


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(original, self, *args, **kwargs)

    setattr(owner, name, wrapped)


def _hash_with_gates(original: Callable[..., str], self: Any, *args: Any, **kwargs: Any) -> str:
    """The key of vLLM's compile cache: a graph with our gates is another graph, and so is one with newer gates."""
    plain = original(self, *args, **kwargs)
    if wanted(self) is None:
        return plain
    gates = Path(__file__).with_name("vllm_gate.py").read_bytes()
    return hashlib.sha256(plain.encode() + gates).hexdigest()[: len(plain)]


def _refuse_early(original: Callable[..., None], self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
    """Read the steering before the weights, and refuse what cannot be steered."""
    from dsmoe.steering.steering import Steering

    asked, steering = wanted(vllm_config), None
    if asked is not None:
        _check_engine(vllm_config)
        if asked.get("steering"):
            steering = Steering.load(asked["steering"])
            check_mode(steering)
    self.dsmoe_steering = steering
    original(self, vllm_config, *args, **kwargs)


def _check_engine(config: Any) -> None:
    """Raise InputError for engines whose layers we do not see, or whose caches outlive a change of steering."""
    if config.parallel_config.pipeline_parallel_size > 1:
        raise InputError("pipeline_parallel_size: steering is proven on whole models; use tensor_parallel_size")
    if config.parallel_config.enable_elastic_ep:
        raise InputError("enable_elastic_ep: engines that join later would not be steered")
    if config.kv_transfer_config is not None:
        raise InputError("kv_transfer_config: a cache outside of the engine knows nothing of steering")


def _steer_from_start(original: Callable[..., None], self: Any) -> None:
    original(self)
    if self.dsmoe_steering is not None:
        self.collective_rpc(METHOD, args=(self.dsmoe_steering.to_json(),))


def _forget_prefixes(original: Callable[..., Any], self: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
    """What was computed under one steering must not be read under another."""
    if method == METHOD and (self.scheduler.has_unfinished_requests() or not self.reset_prefix_cache()):
        raise InputError("steering: requests are running; another steering must wait for them")
    return original(self, method, *args, **kwargs)
