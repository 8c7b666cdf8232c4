"""A cell: one config, its inputs and the stages that it stands on, each with all that its result depends on."""

from dataclasses import asdict
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from dsmoe.agenda import Agenda
from dsmoe.checks import check_inputs, check_room
from dsmoe.config import GENERATES, Batches, Config, PretrainConfig, SftConfig
from dsmoe.content import depended_on, shown
from dsmoe.discovery.rule import rule_of
from dsmoe.discovery.tokens import read_stop_words
from dsmoe.domains import world
from dsmoe.evaluation.engine_versions import engine_versions
from dsmoe.inputs import Inputs
from dsmoe.methods import OWN, Recipe, Trial, open_settings, settings, tuned_as
from dsmoe.models.checkpoint import content_of, identity
from dsmoe.models.load import Node, this_node
from dsmoe.provenance import stable_hash
from dsmoe.remembered import remembered
from dsmoe.stage import Stage, is_finished

PRETRAIN, DISCOVER, SCORE, FINE_TUNE, CHOOSE, EVALUATE, COMPARE = 1, 3, 2, 1, 2, 3, 5
"""The versions of the stages' code: raise one when that code would give another result."""

Key = dict[str, Any]


@cache
def _world(whose: bool) -> str:
    """A hash of what the embedded model reads; whose a statement is matters to a planted one alone."""
    return stable_hash([statement if whose else statement.text for statement in world.statements()])


def pretraining(config: PretrainConfig, batches: Batches = "mixed") -> Stage:
    """Training an embedded model."""
    settings = {key: value for key, value in asdict(config).items() if value is not None}
    if batches != "mixed":
        settings["batches"] = batches
    return Stage("pretrain", PRETRAIN, {**settings, "text": _world(bool({"planted_loss", "batches"} & set(settings)))})


class Cell:
    """One config, ready to run. Raises InputError for whatever in it, or in the files it names, cannot be run.

    `node` is where it runs, None for this machine.
    """

    def __init__(self, config: Config, node: Node | None = None) -> None:
        self.config = config
        self.inputs = Inputs(config)
        check_inputs(self.inputs)
        self.agenda = Agenda(config, self.inputs)
        self.node = node or this_node(config.model)
        scientific = depended_on(config, self.node, self.backend_key)
        self.id = stable_hash({"config": scientific, "compare": COMPARE, "stages": [s.hash for s in self.stages]})
        self.results = Path(config.paths.results)
        self.folder = self.results / config.study / self.id
        if not is_finished(self.folder):
            check_room(config)

    @cached_property
    def pretrain(self) -> Stage | None:
        """Training the embedded model."""
        return pretraining(self.config.model.pretrain) if self.config.model.pretrain else None

    @cached_property
    def model_key(self) -> Key:
        """Which weights, and how they are run: all that can change a bit of the model's output."""
        model = self.config.model
        return {
            "weights": {"pretrain": self.pretrain.hash} if self.pretrain else identity(model),
            "dtype": model.dtype,
            "device": self.node.device,
            "threads": self.node.threads,
            "attn_implementation": model.attn_implementation,
            "experts_implementation": model.experts_implementation,
            **({"trust_remote_code": True} if model.trust_remote_code else {}),
        }

    @cached_property
    def backend_key(self) -> Key:
        """What answers the questions, where that is not transformers: its versions, and what can change its bits."""
        if self.config.backend == "transformers":
            return {}
        vllm = self.config.vllm
        return {
            "backend": "vllm",
            "versions": engine_versions(vllm.python),
            **{name: getattr(vllm, name) for name in ("tensor_parallel", "max_model_len", "eager")},
        }

    @remembered
    def discover(self, domains: tuple[str, ...]) -> Stage:
        """Counting the choices of these domains' tokens."""
        discovery = self.config.discovery
        return Stage(
            "discover",
            DISCOVER,
            {
                "model": self.model_key,
                "records": self.inputs.discover_part(domains).hash,
                "quantile": discovery.quantile,
                "stop_words": read_stop_words(discovery.stop_words),
                "span": discovery.span,
                "max_new_tokens": discovery.max_new_tokens if discovery.span == "generated" else None,
                "markers": sorted(discovery.markers),
                "batch_tokens": discovery.batch_tokens,
            },
        )

    @remembered
    def score(self, rule: str, domain: str) -> Stage:
        """Scoring experts from a domain's counts, or the user's own profile of them, by a rule."""
        discovery = self.config.discovery
        own = discovery.profile if domain == self.config.domain else None
        wants = rule_of(rule)
        return Stage(
            "score",
            SCORE,
            {
                "counts": content_of(Path(own)) if own else self.discover((domain,)).hash,
                "contrast": self.discover(self.inputs.contrast(domain)).hash if wants.contrasts else None,
                "markers": dict(discovery.markers) if wants.marks else None,
                "rule": rule,
                "seed": self.config.seed,
            },
        )

    @remembered
    def fine_tune(self, sft: SftConfig) -> Stage:
        """Training the SFT baseline's adapter."""
        names = ("adapter", "train_size", "learning_rate_grid", "epochs_grid")
        return Stage(
            "fine_tune",
            FINE_TUNE,
            {
                "model": self.model_key,
                "records": self.inputs.train_part.hash,
                "scoring": self.inputs.scoring,
                "seed": self.config.seed,
                **{key: value for key, value in asdict(sft).items() if key not in names},
            },
        )

    @remembered
    def choose(self, method: str) -> Stage | None:
        """Choosing on dev what a method's settings leave open; None where nothing is open."""
        method = tuned_as(method)
        if not (trials := self.agenda.on_dev(method)):
            return None
        return Stage(
            "choose",
            CHOOSE,
            {
                "method": method,
                "open": open_settings(settings(method, self.config)),
                "evaluations": [
                    self.evaluate(trial, domain).hash for trial in trials for domain in self.inputs.asked(trial.split)
                ],
            },
        )

    @remembered
    def evaluate(self, trial: Trial, domain: str) -> Stage:
        """Asking one method one domain's questions."""
        benchmark = self.config.benchmark
        return Stage(
            "evaluate",
            EVALUATE,
            {
                "model": {**self.model_key, **self.backend_key},
                "method": self._method(trial),
                "task": benchmark.task,
                "domain": domain,
                "records": self.inputs.questions(trial.split, domain).hash,
                "examples": self.inputs.examples(trial.split, domain),
                "metric": benchmark.metric,
                "batch_size": benchmark.batch_size,
                "generation": self._generation_key if benchmark.task in GENERATES else None,
            },
        )

    @property
    def _generation_key(self) -> Key:
        """How answers are generated."""
        generation = self.config.generation
        return {
            **asdict(generation),
            "max_new_tokens": self.config.benchmark.max_new_tokens,
            "seed": self.config.seed if generation.temperature else None,
        }

    @property
    def stages(self) -> list[Stage]:
        """Every evaluation that the comparison rests on, method by method, and then those of dev."""
        return [self.evaluate(trial, domain) for trial, domain in self.agenda.asked]

    @remembered
    def _method(self, trial: Trial) -> Key:
        """What a trial does to the model."""
        method, config = trial.method, self.config
        if method == "base":
            return {}
        if method == OWN:
            assert self.inputs.own_steering is not None
            return {"steering": self.inputs.own_steering.to_json()}
        of = trial.settings or settings(method, config)
        chosen = None if trial.settings else self.choose(method)
        if isinstance(of, SftConfig):
            return {"choice": chosen.hash} if chosen else {"adapter": self.fine_tune(of).hash}
        if of is None:
            assert self.inputs.own_adapter is not None
            return {"adapter": content_of(self.inputs.own_adapter)}
        found = self.inputs.recipe(method)
        key = {
            "experts": self._experts_key(found, method),
            "suggestion": asdict(found.suggestion) if found else None,
            "choice": chosen.hash if chosen else None,
            **{name: getattr(of, name) for name in ("num_experts", "strength", "mode", "scale_back", "layers")},
        }
        return {**key, "random": self.config.seed + trial.draw} if method == "random" else key

    def _experts_key(self, found: Recipe | None, method: str) -> str:
        if found is None:
            assert self.pretrain is not None
            return f"{method} {self.config.domain} {self.pretrain.hash}"
        discovery = self.config.discovery
        if discovery.profile and found == self.inputs.recipe("dsmoe"):
            return content_of(Path(discovery.profile))
        return self.score(found.rule, found.domain).hash

    @property
    def content(self) -> Key:
        """The config as results show it: all but where it runs and where results lie."""
        return shown(self.config)
