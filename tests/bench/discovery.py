"""Discovery, beside the naive way and beside the least that it has to do."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from conftest import random_records, word_tokenizer
from measure import Measure, cost, in_turn, speed
from shapes import model_of_size
from torch.nn import functional
from transformers import PreTrainedModel

from dsmoe import Record, discover
from dsmoe.discovery.saliency import batches_by_length
from dsmoe.domains.prompts import discovery_prompt
from dsmoe.models.routers import find_routers

BATCH_TOKENS = 4096
ROUNDS = 5


def discovery_measures() -> list[Measure]:
    """The tiny Qwen3-MoE shape on 120 prompts, one thread."""
    model, tokenizer, records = model_of_size(layers=6, experts=32), word_tokenizer(), random_records(120)

    def ours() -> None:
        discover(model, tokenizer, records, batch_tokens=BATCH_TOKENS)

    def checkpointed() -> None:
        discover(model, tokenizer, records, batch_tokens=BATCH_TOKENS, checkpointing=True)

    def eager_bare() -> None:
        model.set_experts_implementation("eager")
        bare_passes(model, tokenizer, records)
        model.set_experts_implementation("grouped_mm")

    def beside(anchor: Callable[[], None]) -> list[tuple[float, float]]:
        return in_turn(ours, anchor, ROUNDS)

    again = in_turn(checkpointed, ours, ROUNDS)
    return [
        Measure(
            "discovery, times as fast",
            "prompt by prompt",
            speed(beside(lambda: naive_discovery(model, tokenizer, records))),
            "≥ 1.8",
        ),
        Measure(
            "discovery, time",
            "bare forward and backward",
            cost(beside(lambda: bare_passes(model, tokenizer, records))),
            "≤ 1.15",
        ),
        Measure("discovery, time", "the same, eager experts", cost(beside(eager_bare))),
        Measure("discovery, time", "its arithmetic alone", cost(beside(arithmetic(model, tokenizer, records)))),
        Measure("discovery, checkpointed, time", "discovery", cost(again)),
    ]


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


def arithmetic(model: PreTrainedModel, tokenizer: Any, records: Sequence[Record]) -> Callable[[], None]:
    """As many multiplications, in the products of large matrices that this machine is fastest at.

    Each parameter that takes part in a token is multiplied once forward and once backward.
    """
    tokens = sum(len(tokenizer(discovery_prompt(record)).input_ids) for record in records)
    share = model.config.num_experts_per_tok / model.config.num_experts
    active = sum(
        parameter.numel() * (share if ".experts." in name else 1)
        for name, parameter in model.named_parameters()
        if "embed_tokens" not in name
    )
    side = 512
    left, right = torch.randn(side, side), torch.randn(side, side)

    def multiply() -> None:
        for _ in range(round(2 * tokens * active / side**3)):
            left @ right

    return multiply
