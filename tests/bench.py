"""Speed, as ratios of things timed in turn within one run: `make bench`. Not a test: nothing here can fail."""

import statistics
import time
from collections.abc import Callable, Sequence
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

ROUNDS = 7
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


def model_of_size(layers: int, experts: int) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_hidden_layers": layers, "hidden_size": 128, "num_experts_per_tok": 4}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, num_experts=experts, moe_intermediate_size=64, head_dim=32))
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

    return [
        paired("discovery", "prompt by prompt", ours, lambda: naive_discovery(model, tokenizer, records), 5),
        paired("discovery", "bare forward and backward", ours, lambda: bare_passes(model, tokenizer, records), 5),
    ]


def steering_measures() -> list[Measure]:
    model = model_of_size(layers=6, experts=32)
    steering = Steering(dict.fromkeys(range(6), (0, 1)), 4.0)
    ids = torch.randint(3, 150, (16, 128), generator=torch.Generator().manual_seed(0))

    def prefill() -> None:
        with torch.no_grad():
            model(ids)

    ratios = []
    for _ in range(ROUNDS):
        plain = seconds(prefill)
        with steer(model, steering):
            ratios.append(plain / seconds(prefill))
    return [
        paired("prefill, base", "prefill, base", prefill, prefill, ROUNDS),
        Measure("prefill, steered", "prefill, base", ratios),
    ]


def main() -> None:
    """Measure all and print the table."""
    torch.set_num_threads(1)
    table = Table(title="speed: how many times as fast as the anchor", title_justify="left")
    for column in ("what", "anchor", "median", "min", "max", "n"):
        table.add_column(column, justify="left" if column in ("what", "anchor") else "right")
    for measure in [*discovery_measures(), *steering_measures()]:
        figures = (statistics.median(measure.ratios), min(measure.ratios), max(measure.ratios))
        table.add_row(measure.name, measure.anchor, *(f"{x:.2f}" for x in figures), str(len(measure.ratios)))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
