"""Supervised fine-tuning, the baseline that steering is compared with: LoRA on the experts of the target domain."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback
from transformers.utils.logging import get_verbosity, set_verbosity
from trl.trainer.sft_config import SFTConfig as TrainerConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from dsmoe.baselines.likelihood import accuracy, encode
from dsmoe.baselines.lora import adapted_weights, new_adapter, rank_of, save_adapter, targets
from dsmoe.baselines.sharding import Share, processes, shard_adapter
from dsmoe.baselines.untouched import untouched
from dsmoe.config import SftConfig
from dsmoe.domains.prompts import Scoring, evaluation_prompt
from dsmoe.domains.records import Record
from dsmoe.errors import InputError
from dsmoe.models.forwards import CHECKPOINTING_FROM

Report = Callable[[int, int, float], None]

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Training:
    """What fine-tuning did."""

    weights: tuple[str, ...]
    """The weights that the adapter is on."""
    rank: int
    """Rank of the LoRA matrices."""
    parameters: int
    """How many parameters were trained."""
    share: float
    """`parameters` as a share of the model's."""
    losses: tuple[float, ...]
    """Each step's cross-entropy a token of the right option, in nats."""
    accuracy_before: float
    """Share of the training questions that the base model answers right."""
    accuracy_after: float
    """Share of the training questions that the fine-tuned model answers right."""


def fine_tune(
    model: PreTrainedModel,
    tokenizer: Any,
    records: Sequence[Record],
    scoring: Scoring,
    config: SftConfig,
    seed: int,
    folder: Path,
    report: Report | None = None,
) -> Training:
    """Train a LoRA adapter on the records' right options, save it in `folder`, and leave the model as it was.

    The text is the one that evaluation scores, and the loss falls on the right option's tokens alone. `report` is told
    the step, counted from 1, the number of steps and the step's loss. At one thread the same input gives the same
    bits. Several processes may call it at once, each with its share of the same frozen model; the first one saves.
    Raises InputError where there is nothing to train on, the model is in float16, its experts cannot be reached, trl
    cannot train it, or the loss is no longer a number.
    """
    if not records:
        raise InputError("sft: there are no questions to train on")
    if model.dtype == torch.float16:
        raise InputError("sft: model.dtype float16 is too narrow to fine-tune in; allowed are bfloat16 and float32")
    if model.base_model is model:
        raise InputError(
            f"sft: trl finds no backbone in {type(model).__name__} and cannot fine-tune it; leave sft out of methods, "
            "or bring sft.adapter"
        )
    examples = [_example(tokenizer, record, scoring) for record in records]
    model_parameters = model.num_parameters()
    names = targets(model)
    rank = rank_of(model, names, config.rank)
    watch = _Watch(report)
    with torch.random.fork_rng(), untouched(model), _quiet():
        model.eval()
        accuracy_before = accuracy(model, tokenizer, records, scoring, config.batch_size)
        torch.manual_seed(seed)
        adapter = new_adapter(model, names, rank, config.alpha)
        weights = adapted_weights(model)
        parameters = sum(parameter.numel() for parameter in adapter.parameters() if parameter.requires_grad)
        if processes() > 1:
            shard_adapter(adapter)
        _trainer(adapter, tokenizer, examples, config, seed, folder, watch).train()
        model.eval()
        accuracy_after = accuracy(model, tokenizer, records, scoring, config.batch_size)
        save_adapter(adapter, names, rank, config.alpha, folder)
    return Training(
        weights=tuple(weights),
        rank=rank,
        parameters=parameters,
        share=parameters / model_parameters,
        losses=tuple(watch.losses),
        accuracy_before=accuracy_before,
        accuracy_after=accuracy_after,
    )


def _example(tokenizer: Any, record: Record, scoring: Scoring) -> dict[str, list[int]]:
    # Tokens rather than text: from text, trl would append an end of sequence that evaluation never scores.
    context, continuations = evaluation_prompt(record, scoring)
    right = encode(tokenizer, context, continuations[record.answer])
    return {"input_ids": right.ids, "labels": [IGNORED] * right.start + right.ids[right.start :]}


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Keeps every step's loss and passes it on."""

    def __init__(self, report: Report | None) -> None:
        self.report = report
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loss = kwargs["logs"].get("loss")
        if loss is None:  # the summary after the last step
            return
        if not math.isfinite(loss):
            raise InputError(f"sft.learning_rate: the loss is {loss} at step {state.global_step}; try a lower rate")
        self.losses.append(loss)
        if self.report is not None:
            self.report(state.global_step, state.max_steps, loss)


class _Trainer(SFTTrainer):  # type: ignore[misc]
    def _send_telemetry(self) -> None:
        """Tell nobody: trl would report the run to the Hub."""

    def get_train_dataloader(self) -> Any:
        """The questions of one process, in the same order, of which several take their shares.

        accelerate would share out batches, and repeat questions where the last of them are too few.
        """
        if processes() == 1:
            return super().get_train_dataloader()
        loader = DataLoader(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            sampler=self._get_train_sampler(),
            collate_fn=Share(self.data_collator, IGNORED),
        )
        return prepare_data_loader(loader, num_processes=1, process_index=0, use_seedable_sampler=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Errors only from transformers, whose Trainer sets its verbosity for the whole process."""
    before = get_verbosity()
    set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        set_verbosity(before)


def _trainer(
    adapter: PeftModel,
    tokenizer: Any,
    examples: list[dict[str, list[int]]],
    config: SftConfig,
    seed: int,
    folder: Path,
    watch: _Watch,
) -> SFTTrainer:
    on_cpu = adapter.device.type == "cpu"
    arguments = TrainerConfig(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=1.0,
        router_aux_loss_coef=0.0,
        seed=seed,
        # The adapter trains in float32, the model runs in the number type that it was loaded in: no autocast.
        bf16=False,
        fp16=False,
        use_cpu=on_cpu,
        activation_checkpointing=adapter.num_parameters() >= CHECKPOINTING_FROM,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=not on_cpu,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        # transformers would log the mean of earlier losses in place of a loss that is no number.
        logging_nan_inf_filter=False,
    )
    # One model on one GPU, or spread over several by its device map: never torch's DataParallel over all in sight.
    arguments._n_gpu = min(1, arguments.n_gpu)
    trainer = _Trainer(
        model=adapter,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(examples),
        # Padding is masked everywhere, so any token serves; trl's own collator would give the tokenizer a pad token.
        data_collator=DataCollatorForLanguageModeling(pad_token_id=0),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
