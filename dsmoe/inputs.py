"""What a config names: its data set, its tasks, the files that the user brings; looked up and checked.

Nothing here writes, and no weights are loaded.
"""

import logging
from functools import cache, cached_property
from pathlib import Path

from dsmoe import plugins
from dsmoe.baselines.adapter import check_adapter
from dsmoe.config import AUTO, GENERATES, Config, Origin, SteeringConfig
from dsmoe.discovery.profile import ExpertProfile
from dsmoe.discovery.rule import rule_of
from dsmoe.domains import world
from dsmoe.domains.prompts import Scoring
from dsmoe.domains.splits import Splits
from dsmoe.errors import InputError
from dsmoe.evaluation.task import Task
from dsmoe.methods import ORACLE, Recipe, candidates, known, open_settings, recipe, settings, suggestion
from dsmoe.models.chat import check_chat
from dsmoe.models.checkpoint import model_config
from dsmoe.models.fit import check_fits, check_processes, machine
from dsmoe.models.load import context_length, router_shape
from dsmoe.models.needs import needs
from dsmoe.models.planted import PlantedExperts
from dsmoe.models.routers import RouterShape
from dsmoe.parts import TASKS, Part, Read, examples_of, part_of, read_of, split_of, task_of
from dsmoe.remembered import remembered
from dsmoe.serving import check_served
from dsmoe.steering.selection import expert_count, in_window
from dsmoe.steering.steering import Steering, check_mode

FEWEST = 50
"""Dev questions of the target on which something may be chosen."""

log = logging.getLogger(__name__)


@cache
def _warn(line: str) -> None:
    """Say it once, however many cells it holds for."""
    log.warning(line)


class Inputs:
    """The inputs of one config. Raises InputError, on making, for whatever in it, or in its files, cannot be run."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._check_names()
        self._check_domains()
        self._check_evidence()
        self._check_model()
        self._check_generation()
        if config.backend == "vllm":
            check_served(config, self.own_steering)

    @cached_property
    def splits(self) -> Splits:
        """The data set's records, split, the benchmark's own ones as the test split where it has some."""
        return split_of(*self._read)

    @cached_property
    def _read(self) -> Read:
        return read_of(self.config)

    def _part(self, split: str, domains: tuple[str, ...], limit: int | None) -> Part:
        """The first `limit` records of a split and each domain, None for all."""
        return part_of(self._read, split, domains, limit)

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The target domain, then the non-target ones."""
        others = self.config.benchmark.non_target
        if others is None:
            others = tuple(domain for domain in self.splits.tested if domain != self.config.domain)
        return (self.config.domain, *others)

    def contrast(self, domain: str) -> tuple[str, ...]:
        """All domains but one: what rules that contrast hold it against."""
        return tuple(other for other in self.splits.domains if other != domain)

    @cached_property
    def other_domain(self) -> str:
        """Whose experts the control of that name steers: by default the domain after the target in the alphabet."""
        if self.config.discovery.other_domain is not None:
            return self.config.discovery.other_domain
        domains = self.splits.domains
        return domains[(domains.index(self.config.domain) + 1) % len(domains)]

    @remembered
    def recipe(self, method: str) -> Recipe | None:
        """What a method steers by; None for those that need no discovery."""
        return recipe(method, self.config, self.other_domain)

    @remembered
    def discover_part(self, domains: tuple[str, ...]) -> Part:
        """What experts for these domains, together, are discovered on."""
        return self._part("discover", domains, self.config.discovery.limit)

    @cached_property
    def train_part(self) -> Part:
        """What the SFT baseline learns from."""
        return self._part("discover", (self.config.domain,), self.config.sft.train_size)

    @remembered
    def questions(self, split: str, domain: str) -> Part:
        """What methods are compared on (test), or what choices are made on (dev)."""
        return self._part(split, (domain,), self.config.benchmark.limit if split == "test" else None)

    def task(self, split: str, domain: str) -> Task:
        """A split's questions of a domain as lm-eval wants them."""
        return task_of(self.config.benchmark.task, self._origin(split), self.questions(split, domain), domain)

    @remembered
    def examples(self, split: str, domain: str) -> str:
        """A hash of what the model is shown beside them."""
        return examples_of(self.config.benchmark.task, self._origin(split), self.questions(split, domain), domain)

    def _origin(self, split: str) -> Origin:
        """Where the records of a split come from."""
        return self.config.questions if split == "test" else self.config.dataset

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
        rule_of(self.config.discovery.rule)
        for method in self.config.methods:
            if method not in known():
                near = plugins.did_you_mean(method, known())
                raise InputError(f"methods: {method!r} is not one of {', '.join(known())}{near}")
        benchmark = self.config.benchmark
        metrics = plugins.load(TASKS, benchmark.task, "benchmark.task").METRICS
        if benchmark.metric not in metrics:
            raise InputError(
                f"benchmark.metric: {benchmark.metric!r} is none of {benchmark.task}'s: {', '.join(metrics)}"
            )

    def _check_domains(self) -> None:
        target = self.config.domain
        for key, domain in (("domain", target), *(("benchmark.non_target", d) for d in self.domains[1:])):
            self._check_domain(key, domain)
            if not self.questions("test", domain).records:
                tested = ", ".join(self.splits.tested)
                raise InputError(f"{key}: {domain!r} has no test questions; there are some of {tested or 'no domain'}")
        if len(set(self.domains)) < len(self.domains):
            twice = ", ".join(self.domains)
            raise InputError(f"benchmark.non_target: a domain is named twice, or is the target: {twice}")
        if "other_domain" in self.config.methods:
            key = "discovery.other_domain"
            self._check_domain(key, self.other_domain)
            if self.other_domain == target:
                raise InputError(f"{key}: {target!r} is the target domain; name another, or leave out the method")

    def _check_domain(self, key: str, domain: str) -> None:
        if domain not in (named := self.splits.domains):
            raise InputError(f"{key}: {domain!r} is not one of {', '.join(named)}{plugins.did_you_mean(domain, named)}")

    def _check_evidence(self) -> None:
        """Refuse what has no questions to learn from, or too few to choose on."""
        config = self.config
        found = [one for method in config.methods if (one := self.recipe(method))]
        if self.own_profile is not None:
            found = [one for one in found if one.domain != config.domain]
        wanted = {one.domain for one in found} | ({config.domain} if config.fine_tunes else set())
        for domain in sorted(wanted):
            if not self.discover_part((domain,)).records:
                raise InputError(f"domain: {domain!r} has no questions in the discover split")
        for one in found:
            if rule_of(one.rule).contrasts and not self.discover_part(self.contrast(one.domain)).records:
                raise InputError(f"methods: {one.rule} holds {one.domain!r} against other domains; there are none")
        opened = [name for method in config.methods for name in open_settings(settings(method, config))]
        if opened and config.benchmark.source is not None:
            raise InputError(
                f"{_key(opened[0])}: auto chooses on the data set's dev questions, which are of another kind than "
                f"those of benchmark.source={config.benchmark.source}; choose there, and carry the settings over"
            )
        if opened and (questions := len(self.questions("dev", config.domain).records)) < FEWEST:
            raise InputError(
                f"{_key(opened[0])}: auto chooses on the "
                f"{questions} dev questions of {config.domain!r}; it wants at least {FEWEST}"
            )

    def _check_generation(self) -> None:
        benchmark, model = self.config.benchmark, self.config.model
        if benchmark.task not in GENERATES:
            return
        context = context_length(model)
        if context is not None and benchmark.max_new_tokens >= context:
            raise InputError(
                f"benchmark.max_new_tokens: {benchmark.max_new_tokens} leaves no room for a question in "
                f"{model.name}'s context of {context} tokens"
            )
        if self.config.generation.chat_template:
            check_chat(model, self.config.generation)

    def check_room(self) -> None:
        """Warn, or raise InputError, where the model does not fit this machine, as far as can be known beforehand."""
        there = machine(self.config.cluster, self.config.model)
        for line in check_fits(needs(self.config), there):
            _warn(line)
        check_processes(self.config, there)

    def _check_model(self) -> None:
        pretrain = self.config.model.pretrain
        if pretrain is not None and pretrain.planted_loss is not None:
            PlantedExperts.draw(world.DOMAINS, pretrain)
        elif ORACLE in self.config.methods:
            raise InputError("methods: oracle steers planted experts, and this model has none; choose model=planted")
        shape = router_shape(self.config.model)
        for method in {"dsmoe": None, **dict.fromkeys(self.config.methods)}:
            if isinstance(of := settings(method, self.config), SteeringConfig):
                for steering in candidates(of):
                    assert isinstance(steering, SteeringConfig)
                    self._check_steering(method, steering, shape)
        if self.own_steering is not None:
            self.own_steering.check_fit(shape)
        if self.own_adapter is not None:
            check_adapter(self.own_adapter)
            if self.config.model.path is not None:
                from dsmoe.baselines.lora import check_fit

                check_fit(self.own_adapter, model_config(self.config.model))

    def _check_steering(self, method: str, steering: SteeringConfig, shape: RouterShape) -> None:
        """Raise InputError where a method cannot steer so, as far as that can be known before discovery."""
        fixed = suggestion(method)
        check_mode(fixed.mode or steering.mode, shape.architecture)
        experts = {layer: count for layer, count in shape.num_experts.items() if in_window(layer, steering.layers)}
        assert steering.num_experts != AUTO
        expert_count(steering.num_experts, sum(experts.values()), steering.layers)
        if self.own_profile is not None and method == "dsmoe":
            Steering.suggested(self.own_profile, steering).check_fit(shape)


def _key(setting: str) -> str:
    """The config key of a setting that dev may decide."""
    return f"{'sft' if setting in ('epochs', 'learning_rate') else 'steering'}.{setting}"
