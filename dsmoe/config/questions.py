"""The questions: where they come from, how they are split, asked and answered."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Interval

from dsmoe.config.types import Benchmark, Count, Metric, Share, Text

GENERATES = frozenset({"mmlu_pro", "gpqa", "aime"})
"""The benchmark tasks whose answers are generated; the others score given ones."""


@dataclass(frozen=True, slots=True)
class SplitsConfig:
    discover: Share
    """Share of each domain for discovery and fine-tuning."""
    dev: Share
    """Share of each domain for choosing hyperparameters."""
    test: Share
    """Share of each domain for the comparison."""

    def __post_init__(self) -> None:
        if not math.isclose(self.discover + self.dev + self.test, 1):
            raise ValueError(f"discover + dev + test is {self.discover + self.dev + self.test:g}, not 1")


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    source: str
    """Where records come from: a module of dsmoe/domains/sources."""
    path: str | None
    """A local file in place of the Hub; for source=records, your own file."""
    revision: str | None
    """Branch, tag or commit on the Hub."""
    splits: SplitsConfig
    """How records are split."""

    key = "dataset"


@dataclass(frozen=True, slots=True)
class BenchmarkConfig:
    task: Benchmark
    """option_text scores the options' words, letter their letters; mmlu_pro, gpqa and aime are lm-eval's own tasks."""
    metric: Metric
    """The lm-eval metric that is compared."""
    source: str | None
    """Where its questions come from, all of them test, as for dataset.source; null asks the data set's test split."""
    path: str | None
    """A local file of them in place of the Hub."""
    revision: str | None
    """Branch, tag or commit of them on the Hub."""
    non_target: tuple[str, ...] | None
    """Domains beside the target; null takes all others that have test questions."""
    limit: Count | None
    """Most test questions a domain; null takes all."""
    batch_size: Count
    """Sequences a batch. Another size gives other bits."""
    max_new_tokens: Count
    """Longest generated answer, for tasks that generate."""

    key = "benchmark"

    def __post_init__(self) -> None:
        if self.source is None and (self.path or self.revision):
            raise ValueError("path and revision: want source too, the kind of questions that they are of")


Origin = DatasetConfig | BenchmarkConfig
"""What names where records come from: `source`, `path` and `revision` below `key`."""


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How answers are generated; `benchmark.max_new_tokens` says how long."""

    chat_template: bool
    """Ask through the checkpoint's chat template, examples as earlier turns."""
    system_prompt: Text | None
    """What stands before every question; with chat_template, the system's turn."""
    template_args: Mapping[Text, str | int | bool] = field(hash=False)
    """Further arguments of the chat template: +generation.template_args.enable_thinking=false."""
    think_end: Text | int | None
    """Text, or the id of a token, that ends the thinking: what stands before it is no answer, nor ends one."""
    samples: Count
    """Answers to each question; more than one want a temperature."""
    temperature: Annotated[float, Interval(ge=0, lt=math.inf)]
    """Of sampling; 0 always takes the likeliest token."""
    top_p: Annotated[float, Interval(gt=0, le=1)]
    """Sample from the likeliest tokens that together have this probability."""
    top_k: Count | None
    """Sample from this many likeliest tokens; null from all."""

    def __post_init__(self) -> None:
        if self.temperature == 0:
            for name, given in (("samples", self.samples > 1), ("top_p", self.top_p < 1), ("top_k", self.top_k)):
                if given:
                    raise ValueError(f"{name} is {getattr(self, name)}, but at temperature 0 nothing is sampled")
        if self.template_args and not self.chat_template:
            raise ValueError("template_args: are arguments of the chat template, but chat_template is false")

    @property
    def changed(self) -> list[str]:
        """The settings that are not the plainest: no template, no system prompt, one answer without sampling."""
        plain: tuple[Any, ...] = (False, None, {}, None, 1, 0.0, 1.0, None)
        names = self.__dataclass_fields__
        return [name for name, value in zip(names, plain, strict=True) if getattr(self, name) != value]
