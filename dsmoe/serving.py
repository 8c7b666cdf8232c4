"""Serving a config's model by an engine of vLLM: what cannot be is refused, the rest becomes the engine's settings."""

import json

from dsmoe.config import GENERATES, Config, SteeringConfig
from dsmoe.errors import InputError
from dsmoe.evaluation.engine import Engine, EngineSettings, engine
from dsmoe.methods import OWN, settings, suggestion
from dsmoe.steering.steering import Steering


def check_served(config: Config, own: Steering | None) -> None:
    """Raise InputError for what vLLM, or lm-eval's model of it, cannot do; `own` is the steering of method steering."""
    if isinstance(config.generation.think_end, int):
        raise InputError("generation.think_end: lm-eval's vllm model wants text, not the id of a token")
    for method in config.methods:
        of = settings(method, config)
        mode = (suggestion(method).mode or of.mode) if isinstance(of, SteeringConfig) else None
        if method == OWN and own is not None:
            mode = own.mode
        if mode not in (None, "logit"):
            raise InputError(f"backend: vllm steers in mode logit alone, but method {method} steers in mode {mode}")
    length, new = config.vllm.max_model_len, config.benchmark.max_new_tokens
    if length is not None and config.benchmark.task in GENERATES and new >= length:
        raise InputError(f"vllm.max_model_len: {length} leaves no room for a question and {new} new tokens")


def serve(config: Config, path: str, revision: str | None, weights: str) -> Engine:
    """The engine of the checkpoint at `path`, whose content has the hash `weights`; started unless it runs already."""
    vllm, generation = config.vllm, config.generation
    model = {
        "pretrained": path,
        "revision": revision,
        "dtype": config.model.dtype,
        "trust_remote_code": config.model.trust_remote_code,
        "tensor_parallel_size": vllm.tensor_parallel,
        "max_model_len": vllm.max_model_len,
        "gpu_memory_utilization": vllm.memory,
        "enforce_eager": vllm.eager,
        "max_num_seqs": config.benchmark.batch_size,
        "chat_template_args": dict(generation.template_args),
        "think_end_token": generation.think_end,
        "seed": config.seed,
    }
    return engine(EngineSettings(vllm.python, config.model.threads, json.dumps(model), weights))
