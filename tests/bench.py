"""Speed, as ratios of things timed in turn within one run: `make bench`. Not a test: nothing here can fail."""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from conftest import SIZES, random_records, word_tokenizer
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from dsmoe import Record, Steering, discover, steer
from dsmoe.discovery.saliency import batches_by_length
from dsmoe.domains.prompts import discovery_prompt
from dsmoe.models.routers import find_routers

PAIRS = 15
CALLS = 1000
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Measure:
    """Seconds of `ours` and of `anchor`, run in turn: the ratio anchor / ours of each round."""

    name: str
    anchor: str
    ratios: Sequence[float]


def paired(name: str, anchor_name: str, ours: Callable[[], Any], anchor: Callable[[], Any], rounds: int) -> Measure:
    """Time both in turn, after one round that does not count."""
    ours()
    anchor()
    ratios = []
    for _ in range(rounds):
        ours_seconds = seconds(ours)
        ratios.append(seconds(anchor) / ours_seconds)
    return Measure(name, anchor_name, ratios)


def seconds(work: Callable[[], Any]) -> float:
    """How long the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def model_of_size(layers: int, experts: int, hidden_size: int = 128, expert_size: int = 64) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_hidden_layers": layers, "hidden_size": hidden_size, "num_experts_per_tok": 4}
    config = Qwen3MoeConfig(**sizes, num_experts=experts, moe_intermediate_size=expert_size, head_dim=32)
    model = Qwen3MoeForCausalLM(config)
    model.eval()
    return model


def naive_discovery(model: PreTrainedModel, tokenizer: Any, records: Sequence[Record]) -> None:
    """Prompt by prompt: a forward and backward for saliency, a forward with hooks that count in Python."""
    counts: dict[tuple[int, int], int] = {}

    def count(layer: int) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            chosen = (
                functional.linear(inputs[0].flatten(0, -2), module.weight).softmax(dim=-1).topk(module.top_k).indices
            )
            for token in chosen.tolist():
                for expert in token:
                    counts[layer, expert] = counts.get((layer, expert), 0) + 1

        return hook

    for record in records:
        ids = torch.tensor([tokenizer(discovery_prompt(record)).input_ids])
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_(True)
        loss = functional.cross_entropy(model(inputs_embeds=embedded).logits[0, :-1], ids[0, 1:])
        (gradient,) = torch.autograd.grad(loss, embedded)
        (embedded * gradient).norm(dim=-1).tolist()
        hooks = [router.module.register_forward_hook(count(router.layer)) for router in find_routers(model)]
        with torch.no_grad():
            model(ids)
        for hook in hooks:
            hook.remove()


def bare_passes(model: PreTrainedModel, tokenizer: Any, records: Sequence[Record]) -> None:
    """One forward and backward to the embeddings over the same batches, and nothing else."""
    prompts = [tokenizer(discovery_prompt(record)).input_ids for record in records]
    model.requires_grad_(False)
    for batch in batches_by_length([len(prompt) for prompt in prompts], BATCH_TOKENS):
        encoded = tokenizer.pad({"input_ids": [prompts[index] for index in batch]}, return_tensors="pt")
        embedded = model.get_input_embeddings()(encoded.input_ids).detach().requires_grad_(True)
        logits = model(inputs_embeds=embedded, attention_mask=encoded.attention_mask).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), encoded.input_ids[:, 1:].flatten())
        torch.autograd.grad(loss, embedded)
    model.requires_grad_(True)


def discovery_measures() -> list[Measure]:
    model, tokenizer, records = model_of_size(layers=6, experts=32), word_tokenizer(), random_records(120)

    def ours() -> None:
        discover(model, tokenizer, records, batch_tokens=BATCH_TOKENS)

    def checkpointed() -> None:
        discover(model, tokenizer, records, batch_tokens=BATCH_TOKENS, checkpointing=True)

    return [
        paired("discovery", "prompt by prompt", ours, lambda: naive_discovery(model, tokenizer, records), 5),
        paired("discovery", "bare forward and backward", ours, lambda: bare_passes(model, tokenizer, records), 5),
        paired("discovery, checkpointed", "discovery", checkpointed, ours, 5),
    ]


def steering_measures() -> list[Measure]:
    """Base and steered in turn, and base and base beside them, which is what noise alone makes of the ratio.

    All experts are raised alike, so that the routing, and with it the work, stays the same.
    """
    model = model_of_size(layers=8, experts=64, hidden_size=512, expert_size=256)
    steering = Steering(dict.fromkeys(range(8), tuple(range(64))), 4.0)
    draw = torch.Generator().manual_seed(0)
    prompts, starts = (torch.randint(3, 150, shape, generator=draw) for shape in ((8, 128), (64, 8)))

    def prefill() -> None:
        with torch.no_grad():
            model(prompts)

    def generate() -> None:
        model.generate(starts, max_new_tokens=3, min_new_tokens=3, do_sample=False)

    measures = []
    for name, work in (("prefill", prefill), ("generation, 3 tokens", generate)):
        again, steered = [], []
        work()
        for _ in range(PAIRS):
            base = seconds(work)
            again.append(base / seconds(work))
            base = seconds(work)
            with steer(model, steering):
                steered.append(base / seconds(work))
        measures += [
            Measure(f"{name}, base", f"{name}, base", again),
            Measure(f"{name}, steered", f"{name}, base", steered),
        ]
    return measures


def router_call_measures() -> list[tuple[str, float, float]]:
    """Microseconds that one router call takes: (what, base, steered)."""
    model = model_of_size(layers=1, experts=64, hidden_size=512, expert_size=16)
    (router,) = find_routers(model)
    found = []
    for tokens in (1, 64, 1024):
        hidden = torch.randn(tokens, 512, generator=torch.Generator().manual_seed(0))

        def call(hidden: torch.Tensor = hidden) -> None:
            with torch.no_grad():
                router.module(hidden)

        microseconds = []
        for context in (nullcontext(), steer(model, Steering({0: tuple(range(64))}, 4.0))):
            with context:
                microseconds.append(1e6 * statistics.median(seconds(call) for _ in range(CALLS)))
        base, steered = microseconds
        found.append((f"{tokens} tokens", base, steered))
    return found


def main() -> None:
    """Measure all and print the table."""
    torch.set_num_threads(1)
    table = Table(title="speed: how many times as fast as the anchor", title_justify="left")
    for column in ("what", "anchor", "median", "min", "max", "n"):
        table.add_column(column, justify="left" if column in ("what", "anchor") else "right")
    for measure in [*discovery_measures(), *steering_measures()]:
        figures = (statistics.median(measure.ratios), min(measure.ratios), max(measure.ratios))
        table.add_row(measure.name, measure.anchor, *(f"{x:.2f}" for x in figures), str(len(measure.ratios)))
    console = Console(width=100)
    console.print(table)
    calls = Table(title="one router call, µs", title_justify="left")
    for column in ("what", "base", "steered"):
        calls.add_column(column, justify="left" if column == "what" else "right")
    for what, base, steered in router_call_measures():
        calls.add_row(what, f"{base:.0f}", f"{steered:.0f}")
    console.print(calls)


if __name__ == "__main__":
    main()
