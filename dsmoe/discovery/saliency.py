"""One forward and backward pass over prompts: how much each token matters, and which experts it chose.

Shapes: B prompts, T positions (padded), N real tokens of a batch, E experts, K chosen experts, L layers with a router.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dsmoe.errors import InputError
from dsmoe.models.forwards import CHECKPOINTING_FROM, Forward, replaced
from dsmoe.models.routers import Router, decoder_layers, find_routers, near_tie

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class SalientBatch:
    """What one batch of prompts showed: its tokens without padding, prompt by prompt, on the CPU."""

    ids_N: torch.Tensor
    saliency_N: torch.Tensor
    chosen_NLK: torch.Tensor
    weights_NLK: torch.Tensor
    """The weights that routers gave the chosen experts."""
    near_tie_N: torch.Tensor
    """In how many layers the last chosen expert led the first one left out by no more than rounding."""


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of prompts, longest first, in batches of at most `batch_tokens` tokens, padding counted.

    A prompt longer than that has a batch of its own. Memory peaks at the start, and what does not fit fails there.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def salient_batches(
    model: "PreTrainedModel", batches: Iterator[list[list[int]]], checkpointing: bool | None = None
) -> Iterator[SalientBatch]:
    """Saliency r_t = ‖e_t ⊙ ∂L/∂e_t‖₂ and chosen experts of every token (DSMoE, arXiv 2604.05267, Eq. 5).

    `batches` are lists of prompts as token ids. e_t is the input embedding, L the mean next-token cross-entropy of the
    token's own prompt. Gradients reach the embeddings only. With `checkpointing` each layer keeps its input alone
    and runs again on the way back: the same bits for less memory and about a quarter more time; None does so for models
    of a billion parameters and more. Raises InputError for a model that is quantised or in training mode.
    """
    if model.training:
        raise InputError("discovery: the model is in training mode, where routers may choose otherwise; call eval()")
    if (quantiser := getattr(model, "hf_quantizer", None)) is not None:
        raise InputError(
            f"discovery: the model's weights are quantised ({quantiser.quantization_config.quant_method}), and no "
            "gradient passes through them exactly; discover on a plain checkpoint and bring discovery.profile"
        )
    routers = find_routers(model)
    if checkpointing is None:
        checkpointing = model.num_parameters() >= CHECKPOINTING_FROM
    again = {layer: _run_again(layer.forward) for layer in decoder_layers(model)} if checkpointing else {}
    with _frozen(model), _listening(routers) as heard, replaced(again):
        for prompts in batches:
            yield _salient(model, routers, heard, prompts)


def _salient(
    model: "PreTrainedModel", routers: Sequence[Router], heard: dict[int, Any], prompts: list[list[int]]
) -> SalientBatch:
    """One batch; of all that it takes only the answer is left when the next one begins."""
    embedding = model.get_input_embeddings()
    ids_BT, real_BT = padded(prompts, embedding.weight.device)
    embedded = embedding(ids_BT).detach().requires_grad_()
    heard.clear()
    logits = model(inputs_embeds=embedded, attention_mask=real_BT.long(), use_cache=False).logits
    choices = [_choice(router, heard, real_BT) for router in routers]
    loss = _losses(logits, ids_BT, real_BT).sum()
    (gradient,) = torch.autograd.grad(loss, embedded)
    saliency_BT = (embedded.detach().float() * gradient.float()).norm(dim=-1)
    return SalientBatch(
        ids_BT[real_BT].cpu(),
        saliency_BT[real_BT].cpu(),
        torch.stack([chosen for chosen, _, _ in choices], dim=1).cpu(),
        torch.stack([weights for _, weights, _ in choices], dim=1).cpu(),
        torch.stack([near for _, _, near in choices]).sum(dim=0).cpu(),
    )


def _losses(logits: torch.Tensor, ids_BT: torch.Tensor, real_BT: torch.Tensor) -> torch.Tensor:
    """Each prompt's mean next-token cross-entropy [B]; 0 for a prompt of one token."""
    labels = ids_BT[:, 1:].masked_fill(~real_BT[:, 1:], -100)
    tokens = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels.flatten(), reduction="none", ignore_index=-100
    )
    return tokens.view_as(labels).sum(dim=1) / (labels != -100).sum(dim=1).clamp(min=1)


def padded(prompts: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, T], padded on the right, and which of them are real. Padding repeats a prompt's last token."""
    width = max(map(len, prompts))
    ids = torch.tensor([prompt + prompt[-1:] * (width - len(prompt)) for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids, torch.arange(width, device=device) < lengths[:, None]


def _choice(
    router: Router, heard: dict[int, Any], real_BT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer's chosen experts and their weights [N, K], and whether each choice was a near tie [N]."""
    if router.layer not in heard:
        raise RuntimeError(f"layer {router.layer}: the model bypassed its router, so its choices cannot be counted")
    output = router.read(heard.pop(router.layer))
    near = near_tie(router.choice_scores(output.logits), router.top_k)
    # Layers may lie on several GPUs, and only the model's own output comes back to the first.
    chosen, weights, near = (found.to(real_BT.device) for found in (output.chosen, output.weights, near))
    real = real_BT.flatten()
    return chosen[real], weights[real].float(), near[real]


@contextmanager
def _listening(routers: Sequence[Router]) -> Iterator[dict[int, Any]]:
    """A map from layers to what their router returned last."""
    heard: dict[int, Any] = {}

    def listen(layer: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: tuple[torch.Tensor, ...]) -> None:
            heard[layer] = tuple(tensor.detach() for tensor in output)

        return hook

    hooks = [router.module.register_forward_hook(listen(router.layer)) for router in routers]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _run_again(forward: Forward) -> Forward:
    """A layer's forward that keeps nothing but its input until the backward pass.

    transformers' own checkpointing works in training mode only, where some routers choose otherwise.
    """

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return checkpointed


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No weight wants a gradient inside; afterwards those that did before do again."""
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)
