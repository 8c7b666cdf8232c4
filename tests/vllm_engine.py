"""Run with a Python that has vLLM: one engine, driven by the JSON on standard input; its answers go to a file.

A job is {"model", "engine": settings of LLM, "steps": [step, …], "out": path}. A step is {"steer": steering or null},
{"prompts": [[token, …], …], "new_tokens": n}, {"time": [[token, …], …], "steerings": […], "rounds": n}, or {"bias": b},
which gives every router that bias after loading.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def generate(llm: Any, prompts: list[list[int]], new_tokens: int) -> list[dict[str, Any]]:
    from vllm import SamplingParams

    vocabulary = llm.llm_engine.model_config.get_vocab_size()
    settings = SamplingParams(temperature=0, max_tokens=new_tokens, logprobs=vocabulary, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], settings, use_tqdm=False)
    answers = []
    for output in outputs:
        first = output.outputs[0].logprobs[0]
        logits = [first[token].logprob for token in range(vocabulary)]
        answers.append(
            {"tokens": list(output.outputs[0].token_ids), "logits": logits, "cached": output.num_cached_tokens}
        )
    return answers


def tokens_per_second(llm: Any, prompts: list[list[int]], steerings: list[Any], rounds: int) -> list[list[float]]:
    from vllm import SamplingParams

    settings = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    speeds: list[list[float]] = [[] for _ in steerings]
    for number in range(-1, rounds):
        for which, steering in enumerate(steerings):
            llm.collective_rpc("dsmoe_steer", args=(steering,))
            begin = time.perf_counter()
            outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], settings, use_tqdm=False)
            spent = time.perf_counter() - begin
            if number >= 0:
                speeds[which].append(sum(len(prompt) + 64 for prompt in prompts) / spent)
            assert len(outputs) == len(prompts)
    return speeds


def set_bias(worker: Any, bias: float) -> None:
    import torch
    from vllm.model_executor.layers.fused_moe import GateLinear

    for module in worker.get_model().modules():
        if isinstance(module, GateLinear):
            module.bias = torch.nn.Parameter(bias * torch.arange(module.output_size).float(), requires_grad=False)


def run(llm: Any, step: dict[str, Any]) -> Any:
    if "bias" in step:
        return llm.collective_rpc(set_bias, args=(step["bias"],))
    if "steer" in step:
        try:
            return llm.collective_rpc("dsmoe_steer", args=(step["steer"],))
        except Exception as error:
            return f"refused: {error}"
    if "time" in step:
        return tokens_per_second(llm, step["time"], step["steerings"], step["rounds"])
    return generate(llm, step["prompts"], step["new_tokens"])


def main() -> None:
    from vllm import LLM

    job = json.load(sys.stdin)
    llm = LLM(
        job["model"],
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=256,
        max_logprobs=-1,
        logprobs_mode="raw_logits",
        seed=0,
        **job["engine"],
    )
    Path(job["out"]).write_text(json.dumps([run(llm, step) for step in job["steps"]]))


if __name__ == "__main__":
    main()
