"""A cell: one config, its inputs and the stages that it stands on, each with all that its result depends on."""

from dataclasses import asdict
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from dsmoe.config import Config
from dsmoe.discovery.tokens import read_stop_words
from dsmoe.domains import world
from dsmoe.inputs import Inputs
from dsmoe.models.checkpoint import content_of, identity
from dsmoe.models.load import Node, this_node
from dsmoe.stage import Stage, stable_hash

PRETRAIN, DISCOVER, SCORE, FINE_TUNE, EVALUATE, COMPARE = 1, 1, 1, 1, 2, 2
"""The versions of the stages' code: raise one when that code would give another result."""
TRANSPORT = ("paths", "cluster", "tracking", "study")
"""Keys of the config that no result depends on."""

Key = dict[str, Any]


@cache
def _world() -> str:
    """A hash of what the embedded model reads."""
    return stable_hash(world.statements())


class Cell:
    """One config, ready to run. Raises InputError for whatever in it, or in the files it names, cannot be run.

    `node` is where it runs, None for this machine.
    """

    def __init__(self, config: Config, node: Node | None = None) -> None:
        self.config = config
        self.inputs = Inputs(config)
        self.node = node or this_node(config.model)
        self._evaluations: dict[tuple[str, str], Stage] = {}
        self.id = stable_hash({"config": self._scientific, "compare": COMPARE, "stages": [s.hash for s in self.stages]})
        self.results = Path(config.paths.results)
        self.folder = self.results / config.study / self.id

    @cached_property
    def pretrain(self) -> Stage | None:
        """Training the embedded model."""
        if self.config.model.pretrain is None:
            return None
        return Stage("pretrain", PRETRAIN, {**asdict(self.config.model.pretrain), "text": _world()})

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
                "records": self.inputs.discover_part.hash,
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
        records = self.inputs.train_part.hash
        return Stage(
            "fine_tune",
            FINE_TUNE,
            {
                "model": self.model_key,
                "records": records,
                "scoring": self.inputs.scoring,
                "seed": self.config.seed,
                **settings,
            },
        )

    @property
    def discovers(self) -> bool:
        """Whether a method steers by experts that are found here."""
        return bool({"dsmoe", "random"} & set(self.config.methods)) and self.config.discovery.profile is None

    def evaluate(self, method: str, domain: str) -> Stage:
        """Asking one method one domain's test questions."""
        if (method, domain) not in self._evaluations:
            self._evaluations[method, domain] = self._evaluation(method, domain)
        return self._evaluations[method, domain]

    def _evaluation(self, method: str, domain: str) -> Stage:
        benchmark = self.config.benchmark
        return Stage(
            "evaluate",
            EVALUATE,
            {
                "model": self.model_key,
                "method": self._method_key(method),
                "task": benchmark.task,
                "domain": domain,
                "records": self.inputs.test_part(domain).hash,
                "examples": self.inputs.examples(domain),
                "metric": benchmark.metric,
                "batch_size": benchmark.batch_size,
                "max_new_tokens": benchmark.max_new_tokens,
            },
        )

    @property
    def stages(self) -> list[Stage]:
        """Every evaluation that the comparison rests on, method by method."""
        return [self.evaluate(method, domain) for method in self.config.methods for domain in self.inputs.domains]

    def _method_key(self, method: str) -> Key:
        steering = self.config.steering
        if method == "base":
            return {}
        if method == "sft":
            adapter = self.inputs.own_adapter
            return {"adapter": content_of(adapter) if adapter else self.fine_tune.hash}
        if method == "steering":
            assert self.inputs.own_steering is not None
            return {"steering": self.inputs.own_steering.to_json()}
        profile = self.config.discovery.profile
        key = {
            "profile": content_of(Path(profile)) if profile else self.score.hash,
            "num_experts": steering.num_experts,
            "strength": steering.strength,
            "mode": steering.mode,
            "scale_back": steering.scale_back,
            "layers": steering.layers,
        }
        return {**key, "random": self.config.seed} if method == "random" else key

    @property
    def content(self) -> Key:
        """The config as results show it: all but where it runs and where results lie."""
        return {key: value for key, value in asdict(self.config).items() if key not in TRANSPORT}

    @property
    def _scientific(self) -> Key:
        """The config as it comes out here: the device that `auto` means.

        Without paths, whose content stages know, and without what spreads or saves memory and changes no bit.
        """
        content = self.content
        content["model"] |= {"device": self.node.device, "threads": self.node.threads}
        for group, key in (
            ("model", "path"),
            ("model", "device_map"),
            ("dataset", "path"),
            ("discovery", "checkpointing"),
            ("discovery", "profile"),
            ("steering", "file"),
            ("sft", "adapter"),
        ):
            content[group][key] = None
        return content
