"""What a config names: its data set, its tasks, the files that the user brings; looked up when they are asked for.

Nothing here writes, and no weights are loaded.
"""

from functools import cached_property
from pathlib import Path

from dsmoe.config import Config, Origin
from dsmoe.discovery.profile import ExpertProfile
from dsmoe.domains.prompts import Scoring
from dsmoe.domains.splits import Splits
from dsmoe.evaluation.task import Task
from dsmoe.methods import Recipe, recipe
from dsmoe.parts import Part, Read, examples_of, part_of, read_of, split_of, task_of
from dsmoe.remembered import remembered
from dsmoe.steering.steering import Steering


class Inputs:
    """The inputs of one config. Each raises InputError where it cannot be had; `checks` goes through all of them."""

    def __init__(self, config: Config) -> None:
        self.config = config

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

    def asked(self, split: str) -> tuple[str, ...]:
        """Those of them that have questions in a split: of dev the smallest domains may have none."""
        return tuple(domain for domain in self.domains if self.questions(split, domain).records)

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
