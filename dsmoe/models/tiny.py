"""The embedded model: a stock Qwen3-MoE of a few million parameters, trained from nothing on statements of facts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from dsmoe.config import Batches, PretrainConfig
from dsmoe.domains.world import Statement
from dsmoe.models.planted import PLANTED, PlantedExperts, Planting

PAD, END = "<|pad|>", "<|end|>"
IGNORED = -100
HEAD_SIZE = 32
WARM_UP = 0.05
WEIGHT_DECAY = 0.01
GRADIENT_NORM = 1.0
EXPERTS_IMPLEMENTATION = "grouped_mm"

Report = Callable[[int, float], None]


class Batch(NamedTuple):
    """Token ids [statements, tokens], right-padded, and the statements' domains."""

    ids_BT: torch.Tensor
    domains: list[str]


def pretrain(
    folder: Path,
    statements: Sequence[Statement],
    config: PretrainConfig,
    report: Report | None = None,
    batches: Batches = "mixed",
) -> None:
    """Train tokenizer and model on the statements and save both to `folder`, as transformers loads them.

    The same statements, config and kind of batches give the same bits: training runs on one thread, whatever torch is
    set to. Where the config plants experts, `planted.json` beside the checkpoint says which. `report` is told the step,
    counted from 1, and its loss.
    """
    with _reproducible(config.seed):
        tokenizer = _train_tokenizer([statement.text for statement in statements], config)
        model = _build(tokenizer, config)
        planting = None
        if config.planted_loss is not None:
            planted = PlantedExperts.draw(sorted({statement.domain for statement in statements}), config)
            planted.save(folder / PLANTED)
            planting = Planting(model, planted, config.planted_loss)
        _train(model, _batches(tokenizer, statements, config, batches), config, planting, report)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _train_tokenizer(statements: Sequence[str], config: PretrainConfig) -> PreTrainedTokenizerFast:
    # Byte-level: all 256 bytes are in the vocabulary, so any text has an encoding.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(statements, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=config.context_length,
        clean_up_tokenization_spaces=False,
    )


def architecture(
    config: PretrainConfig, vocabulary_size: int, pad: int | None = None, end: int | None = None
) -> Qwen3MoeConfig:
    """The model's config for transformers, with the token ids of padding and of the end."""
    return Qwen3MoeConfig(
        vocab_size=vocabulary_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.hidden_size // HEAD_SIZE,
        num_key_value_heads=config.hidden_size // HEAD_SIZE,
        num_experts=config.num_experts,
        num_experts_per_tok=config.top_k,
        moe_intermediate_size=config.expert_size,
        norm_topk_prob=True,
        router_aux_loss_coef=config.router_loss,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=None,
        eos_token_id=end,
    )


def _build(tokenizer: PreTrainedTokenizerFast, config: PretrainConfig) -> Qwen3MoeForCausalLM:
    shape = architecture(config, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    model = Qwen3MoeForCausalLM(shape)
    model.set_experts_implementation(EXPERTS_IMPLEMENTATION)
    return model


def _batches(
    tokenizer: PreTrainedTokenizerFast, statements: Sequence[Statement], config: PretrainConfig, kind: Batches
) -> Iterator[Batch]:
    """Endless batches of statements; a new order every epoch.

    Statements of like length share a batch, so next to nothing is padding.
    """
    texts = [statement.text for statement in statements]
    encoded = [torch.tensor([*ids, tokenizer.eos_token_id]) for ids in tokenizer(texts)["input_ids"]]
    # Statements that may share a batch.
    home = [statement.domain if kind == "single" else "" for statement in statements]
    while True:
        order = sorted(torch.randperm(len(encoded)).tolist(), key=lambda index: (home[index], len(encoded[index])))
        batches: list[list[int]] = [[]]
        for index in order:
            full = len(encoded[index]) * (len(batches[-1]) + 1) > config.batch_tokens
            if full or (batches[-1] and home[batches[-1][0]] != home[index]):
                batches.append([])
            batches[-1].append(index)
        for index in torch.randperm(len(batches)).tolist():
            ids_BT = pad_sequence(
                [encoded[member] for member in batches[index]], batch_first=True, padding_value=tokenizer.pad_token_id
            )
            yield Batch(ids_BT, [statements[member].domain for member in batches[index]])


def _train(
    model: Qwen3MoeForCausalLM,
    batches: Iterator[Batch],
    config: PretrainConfig,
    planting: Planting | None,
    report: Report | None,
) -> None:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True
    )
    # Imported here: it brings peft and half a second, which training alone needs.
    from transformers import get_cosine_schedule_with_warmup

    schedule = get_cosine_schedule_with_warmup(optimizer, round(WARM_UP * config.steps), config.steps)
    model.train()
    for step in range(1, config.steps + 1):
        ids_BT, domains = next(batches)
        real_BT = ids_BT.ne(model.config.pad_token_id)
        with planting.forced(domains, real_BT) if planting else nullcontext(()) as router_losses:
            loss = model(
                input_ids=ids_BT,
                attention_mask=real_BT,
                labels=ids_BT.where(real_BT, IGNORED),
                output_router_logits=True,
                use_cache=False,
            ).loss
        sum(router_losses, start=loss).backward()
        clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if report is not None:
            report(step, loss.item())
