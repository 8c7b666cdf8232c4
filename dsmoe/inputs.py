"""What a config names: its data set, its tasks, the files that the user brings; looked up and checked.

Nothing here writes, and no weights are loaded.
"""

import logging
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

from dsmoe import plugins
from dsmoe.baselines.adapter import check_adapter
from dsmoe.config import BenchmarkConfig, Config, DatasetConfig
from dsmoe.discovery.discover import RULES
from dsmoe.discovery.profile import ExpertProfile
from dsmoe.domains.prompts import Scoring
from dsmoe.domains.records import Record, content_hash
from dsmoe.domains.splits import Splits, split_records
from dsmoe.errors import InputError
from dsmoe.evaluation.task import Task
from dsmoe.models.checkpoint import content_of, model_config
from dsmoe.models.fit import check_fits, check_processes, machine
from dsmoe.models.load import router_shape
from dsmoe.models.needs import needs
from dsmoe.steering.steering import Steering, check_mode, expert_count, in_window

SOURCES = "dsmoe.domains.sources"
TASKS = "dsmoe.evaluation.tasks"

log = logging.getLogger(__name__)


@cache
def _warn(line: str) -> None:
    """Say it once, however many cells it holds for."""
    log.warning(line)


@dataclass(frozen=True, eq=False)
class Part:
    """Records of one split and domain; the same object for all cells of a sweep that mean the same."""

    records: tuple[Record, ...]

    @cached_property
    def hash(self) -> str:
        """A hash of what they say."""
        return content_hash(self.records)


@lru_cache(maxsize=4)
def _split(config: DatasetConfig, content: str | None) -> Splits:
    """The data set's records, read once for all cells of a sweep; `content` is a hash of the file, if it is one."""
    return split_records(plugins.load(SOURCES, config.source, "dataset.source").load(config), config.splits)


@lru_cache(maxsize=1024)
def _part(config: DatasetConfig, content: str | None, split: str, domain: str, limit: int | None) -> Part:
    """The first `limit` records of a split and domain."""
    return Part(tuple(_split(config, content).of(split, domain, limit)))


@lru_cache(maxsize=1024)
def _examples(benchmark: BenchmarkConfig, dataset: DatasetConfig, part: Part, domain: str) -> str:
    """A hash of what the model is shown beside the domain's questions."""
    return _task(benchmark, dataset, part, domain).examples


def _task(benchmark: BenchmarkConfig, dataset: DatasetConfig, part: Part, domain: str) -> Task:
    kind = plugins.load(TASKS, benchmark.task, "benchmark.task")
    task: Task = kind.task(domain, part.records, benchmark, dataset)
    return task


class Inputs:
    """The inputs of one config. Raises InputError, on making, for whatever in it, or in its files, cannot be run."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._check_names()
        self._check_domains()
        self._check_model()

    @cached_property
    def splits(self) -> Splits:
        """The data set's records, split."""
        return _split(self.config.dataset, self._content)

    @cached_property
    def _content(self) -> str | None:
        path = self.config.dataset.path
        return content_of(Path(path)) if path and Path(path).is_file() else None

    def part(self, split: str, domain: str, limit: int | None) -> Part:
        """The first `limit` records of a split and domain, None for all."""
        return _part(self.config.dataset, self._content, split, domain, limit)

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The target domain, then the non-target ones."""
        others = self.config.benchmark.non_target
        if others is None:
            others = tuple(domain for domain in self.splits.domains if domain != self.config.domain)
        return (self.config.domain, *others)

    @property
    def discover_part(self) -> Part:
        """What experts are discovered on."""
        return self.part("discover", self.config.domain, self.config.discovery.limit)

    @property
    def train_part(self) -> Part:
        """What the SFT baseline learns from."""
        return self.part("discover", self.config.domain, self.config.sft.train_size)

    def test_part(self, domain: str) -> Part:
        """What methods are compared on."""
        return self.part("test", domain, self.config.benchmark.limit)

    def task(self, domain: str) -> Task:
        """The domain's test questions as lm-eval wants them."""
        return _task(self.config.benchmark, self.config.dataset, self.test_part(domain), domain)

    def examples(self, domain: str) -> str:
        """A hash of what the model is shown beside them."""
        return _examples(self.config.benchmark, self.config.dataset, self.test_part(domain), domain)

    @property
    def scoring(self) -> Scoring:
        """The form in which the SFT baseline sees its questions: that of the benchmark."""
        return "option_text" if self.config.benchmark.task == "option_text" else "letter"

    @cached_property
    def own_profile(self) -> ExpertProfile | None:
        """The expert profile that the user brings in place of discovery."""
        path = self.config.discovery.profile
        return None if path is None else ExpertProfile.load(path)

    @cached_property
    def own_steering(self) -> Steering | None:
        """The steering that the user brings, for method `steering`."""
        path = self.config.steering.file
        return None if path is None else Steering.load(path)

    @property
    def own_adapter(self) -> Path | None:
        """The adapter that the user brings in place of fine-tuning."""
        path = self.config.sft.adapter
        return None if path is None else Path(path)

    def _check_names(self) -> None:
        plugins.load(RULES, self.config.discovery.rule, "discovery.rule")
        benchmark = self.config.benchmark
        metrics = plugins.load(TASKS, benchmark.task, "benchmark.task").METRICS
        if benchmark.metric not in metrics:
            raise InputError(
                f"benchmark.metric: {benchmark.metric!r} is none of {benchmark.task}'s: {', '.join(metrics)}"
            )

    def _check_domains(self) -> None:
        target, methods, known = self.config.domain, set(self.config.methods), self.splits.domains
        for key, domain in (("domain", target), *(("benchmark.non_target", d) for d in self.domains[1:])):
            if domain not in known:
                near = plugins.did_you_mean(domain, known)
                raise InputError(f"{key}: {domain!r} is not one of {', '.join(known)}{near}")
            if not self.test_part(domain).records:
                raise InputError(f"{key}: {domain!r} has no test questions")
        if len(set(self.domains)) < len(self.domains):
            twice = ", ".join(self.domains)
            raise InputError(f"benchmark.non_target: a domain is named twice, or is the target: {twice}")
        discovers = bool({"dsmoe", "random"} & methods) and self.own_profile is None
        if (discovers or self.config.fine_tunes) and not self.discover_part.records:
            raise InputError(f"domain: {target!r} has no questions in the discover split")

    def _check_model(self) -> None:
        there = machine(self.config.cluster, self.config.model)
        for line in check_fits(needs(self.config), there):
            _warn(line)
        check_processes(self.config, there)
        shape = router_shape(self.config.model)
        steering = self.config.steering
        check_mode(steering.mode, shape.architecture)
        experts = {layer: count for layer, count in shape.num_experts.items() if in_window(layer, steering.layers)}
        expert_count(steering.num_experts, sum(experts.values()), steering.layers)
        if self.own_steering is not None:
            self.own_steering.check_fit(shape)
        if self.own_profile is not None:
            Steering.of_config(self.own_profile, steering).check_fit(shape)
        if self.own_adapter is not None:
            check_adapter(self.own_adapter)
            if self.config.model.path is not None:
                from dsmoe.baselines.lora import check_fit

                check_fit(self.own_adapter, model_config(self.config.model))
