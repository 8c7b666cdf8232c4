"""A cell: one config with everything that it names looked up and checked, and the stages that it stands on.

Making a cell reads the user's files but writes nothing and loads no weights.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from dsmoe import plugins
from dsmoe.baselines.adapter import check_adapter
from dsmoe.config import Config
from dsmoe.discovery.discover import RULES
from dsmoe.discovery.profile import ExpertProfile
from dsmoe.discovery.tokens import read_stop_words
from dsmoe.domains import world
from dsmoe.domains.prompts import Scoring
from dsmoe.domains.records import Record, content_hash
from dsmoe.domains.splits import Splits, split_records
from dsmoe.errors import InputError
from dsmoe.evaluation.task import Task
from dsmoe.models.checkpoint import content_of, identity
from dsmoe.models.load import device_of, router_shape, threads_of
from dsmoe.stage import Stage, stable_hash
from dsmoe.steering.steering import Steering, expert_count

SOURCES = "dsmoe.domains.sources"
TASKS = "dsmoe.evaluation.tasks"
PRETRAIN, DISCOVER, SCORE, FINE_TUNE, EVALUATE, COMPARE = 1, 1, 1, 1, 1, 1
"""The versions of the stages' code: raise one when that code would give another result."""

Key = dict[str, Any]


class Cell:
    """One config, ready to run. Raises InputError for whatever in it, or in the files it names, cannot be run."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._check_names()
        self._check_data()
        self._check_model()
        self.id = stable_hash({"config": self._scientific, "compare": COMPARE, "stages": [s.hash for s in self.stages]})
        self.results = Path(config.paths.results)
        self.folder = self.results / config.study / self.id

    # What the config names: records and tasks.

    @cached_property
    def splits(self) -> Splits:
        """The data set's records, split."""
        source = plugins.load(SOURCES, self.config.dataset.source, "dataset.source")
        return split_records(source.load(self.config.dataset), self.config.dataset.splits)

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The target domain, then the non-target ones."""
        others = self.config.benchmark.non_target
        if others is None:
            others = tuple(domain for domain in self.splits.domains if domain != self.config.domain)
        return (self.config.domain, *others)

    @property
    def discover_records(self) -> Sequence[Record]:
        """What experts are discovered on."""
        return self.splits.of("discover", self.config.domain, self.config.discovery.limit)

    @property
    def train_records(self) -> Sequence[Record]:
        """What the SFT baseline learns from."""
        return self.splits.of("discover", self.config.domain, self.config.sft.train_size)

    def test_records(self, domain: str) -> Sequence[Record]:
        """What methods are compared on."""
        return self.splits.of("test", domain, self.config.benchmark.limit)

    def task(self, domain: str) -> Task:
        """The domain's test questions as lm-eval wants them."""
        kind = plugins.load(TASKS, self.config.benchmark.task, "benchmark.task")
        task: Task = kind.task(domain, self.test_records(domain), self.config.benchmark, self.config.dataset)
        return task

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

    # The stages: each key holds all that a stage's result depends on.

    @cached_property
    def pretrain(self) -> Stage | None:
        """Training the embedded model."""
        if self.config.model.pretrain is None:
            return None
        return Stage(
            "pretrain", PRETRAIN, {**asdict(self.config.model.pretrain), "text": stable_hash(world.statements())}
        )

    @cached_property
    def model_key(self) -> Key:
        """Which weights, and how they are run: all that can change a bit of the model's output."""
        model = self.config.model
        return {
            "weights": {"pretrain": self.pretrain.hash} if self.pretrain else identity(model),
            "dtype": model.dtype,
            "device": device_of(model),
            "threads": threads_of(model),
            "attn_implementation": model.attn_implementation,
            "experts_implementation": model.experts_implementation,
        }

    @cached_property
    def discover(self) -> Stage:
        """Counting the choices of the target domain's tokens."""
        discovery = self.config.discovery
        return Stage(
            "discover",
            DISCOVER,
            {
                "model": self.model_key,
                "records": content_hash(self.discover_records),
                "quantile": discovery.quantile,
                "stop_words": read_stop_words(discovery.stop_words),
                "batch_tokens": discovery.batch_tokens,
            },
        )

    @cached_property
    def score(self) -> Stage:
        """Scoring experts from those counts, by the rule."""
        return Stage(
            "score",
            SCORE,
            {"discover": self.discover.hash, "rule": self.config.discovery.rule, "seed": self.config.seed},
        )

    @cached_property
    def fine_tune(self) -> Stage:
        """Training the SFT baseline's adapter."""
        settings = {k: v for k, v in asdict(self.config.sft).items() if k not in ("adapter", "train_size")}
        records = content_hash(self.train_records)
        return Stage(
            "fine_tune",
            FINE_TUNE,
            {
                "model": self.model_key,
                "records": records,
                "scoring": self.scoring,
                "seed": self.config.seed,
                **settings,
            },
        )

    def evaluate(self, method: str, domain: str) -> Stage:
        """Asking one method one domain's test questions."""
        benchmark, dataset = self.config.benchmark, self.config.dataset
        return Stage(
            "evaluate",
            EVALUATE,
            {
                "model": self.model_key,
                "method": self._method_key(method),
                "task": benchmark.task,
                "domain": domain,
                "records": content_hash(self.test_records(domain)),
                "revision": dataset.revision,
                "metric": benchmark.metric,
                "batch_size": benchmark.batch_size,
                "max_new_tokens": benchmark.max_new_tokens,
            },
        )

    @property
    def stages(self) -> list[Stage]:
        """Every evaluation that the comparison rests on, method by method."""
        return [self.evaluate(method, domain) for method in self.config.methods for domain in self.domains]

    def _method_key(self, method: str) -> Key:
        steering = self.config.steering
        if method == "base":
            return {}
        if method == "sft":
            adapter = self.config.sft.adapter
            return {"adapter": content_of(Path(adapter)) if adapter else self.fine_tune.hash}
        if method == "steering":
            assert self.own_steering is not None
            return {"steering": self.own_steering.to_json()}
        profile = self.config.discovery.profile
        key = {
            "profile": content_of(Path(profile)) if profile else self.score.hash,
            "num_experts": steering.num_experts,
            "strength": steering.strength,
            "mode": steering.mode,
        }
        return {**key, "random": self.config.seed} if method == "random" else key

    @property
    def content(self) -> Key:
        """The config as results show it: all but where results lie."""
        return {key: value for key, value in asdict(self.config).items() if key not in ("paths", "study")}

    @property
    def _scientific(self) -> Key:
        """The config without what only says where things lie; the stages know the content of what is named there."""
        content = self.content
        for group, key in (
            ("model", "path"),
            ("dataset", "path"),
            ("discovery", "profile"),
            ("steering", "file"),
            ("sft", "adapter"),
        ):
            content[group][key] = None
        return content

    # Checks, before anything is written.

    def _check_names(self) -> None:
        plugins.load(RULES, self.config.discovery.rule, "discovery.rule")
        benchmark = self.config.benchmark
        metrics = plugins.load(TASKS, benchmark.task, "benchmark.task").METRICS
        if benchmark.metric not in metrics:
            raise InputError(
                f"benchmark.metric: {benchmark.metric!r} is none of {benchmark.task}'s: {', '.join(metrics)}"
            )

    def _check_data(self) -> None:
        target, methods = self.config.domain, set(self.config.methods)
        for key, domain in (("domain", target), *(("benchmark.non_target", d) for d in self.domains[1:])):
            if domain not in self.splits.domains:
                near = plugins.did_you_mean(domain, self.splits.domains)
                raise InputError(f"{key}: {domain!r} is not one of {', '.join(self.splits.domains)}{near}")
            if not self.test_records(domain):
                raise InputError(f"{key}: {domain!r} has no test questions")
        if len(set(self.domains)) < len(self.domains):
            raise InputError(
                f"benchmark.non_target: a domain is named twice, or is the target: {', '.join(self.domains)}"
            )
        discovers = {"dsmoe", "random"} & methods and self.own_profile is None
        trains = "sft" in methods and self.config.sft.adapter is None
        if (discovers or trains) and not self.discover_records:
            raise InputError(f"domain: {target!r} has no questions in the discover split")

    def _check_model(self) -> None:
        shape = router_shape(self.config.model)
        if self.own_steering is not None:
            self.own_steering.check_fit(shape)
        if self.own_profile is not None:
            Steering.from_profile(self.own_profile, self.config.steering.num_experts, 0).check_fit(shape)
        expert_count(self.config.steering.num_experts, sum(shape.num_experts.values()))
        if self.config.sft.adapter is not None:
            check_adapter(Path(self.config.sft.adapter))
