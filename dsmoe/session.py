"""A session: the stages of one cell, each made when it is first wanted, the model loaded once for all of them."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsmoe import plugins
from dsmoe.cell import Cell
from dsmoe.discovery.discover import RULES, discover
from dsmoe.discovery.profile import ExpertProfile
from dsmoe.domains import world
from dsmoe.effort import Effort, efforts
from dsmoe.errors import InputError
from dsmoe.evaluation.evaluate import evaluate
from dsmoe.evaluation.samples import Sample, read_samples, write_samples
from dsmoe.journal import Journal
from dsmoe.models.load import LoadedModel, let_go, load_model, router_shape
from dsmoe.progress import Advance, Reporter
from dsmoe.results import RoutingChange
from dsmoe.stage import Stage, is_finished, stable_hash
from dsmoe.steering.steer import steer
from dsmoe.steering.steering import Steering
from dsmoe.steering.watch import RoutingWatch

if TYPE_CHECKING:
    from dsmoe.baselines.sft import Report, Training

PROFILE = "profile.safetensors"
TRAINING = "training.json"
SAMPLES = "samples.parquet"
ROUTING = "routing.json"


@dataclass(frozen=True, slots=True)
class Answers:
    """One method's answers to one domain's test questions, and, where it steers, what became of the choices."""

    samples: Sequence[Sample]
    routing_changed: RoutingChange | None


class Session:
    """Runs what a cell stands on; `journal` is told."""

    def __init__(self, cell: Cell, reporter: Reporter, journal: Journal | None = None) -> None:
        self.cell = cell
        self.config = cell.config
        self.reporter = reporter
        self.journal = journal or Journal(None, asdict(cell.node))
        self._folders: dict[str, Path] = {}
        self._steerings: dict[str, Steering | None] = {}

    def _run(self, stage: Stage, make: Callable[[Path], None]) -> Path:
        if stage.hash not in self._folders:
            effort = self._efforts.get(stage.hash)
            journal, notes = (self.journal.about(**effort.facts), effort.to_json()) if effort else (self.journal, {})
            self._folders[stage.hash] = stage.run(self.cell.results, make, self.reporter.say, journal, notes)
        return self._folders[stage.hash]

    @cached_property
    def _efforts(self) -> dict[str, Effort]:
        return {effort.stage.hash: effort for effort in efforts(self.cell)}

    @contextmanager
    def _work(self, stage: Stage, what: str) -> Iterator[Advance]:
        """As the reporter has it, and the journal."""
        with self.reporter.work(what) as advance:
            yield stage.of(self.journal).following(advance)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model, unsteered."""
        return load_model(self.model_path, self.config.model, stable_hash(self.cell.model_key["weights"]))

    @property
    def model_path(self) -> str:
        """Where the model lies: a folder, or on the Hub."""
        return str(self.pretrained() if self.cell.pretrain else self.config.model.path)

    def pretrained(self) -> Path:
        """The embedded model's checkpoint."""
        from dsmoe.models.tiny import pretrain

        config = self.config.model.pretrain
        stage = self.cell.pretrain
        assert stage is not None
        assert config is not None

        def make(folder: Path) -> None:
            with self._work(stage, "pretrain: the embedded model") as advance:
                pretrain(
                    folder,
                    world.statements(),
                    config,
                    lambda step, loss: advance(step, config.steps, f"loss {loss:.2f}"),
                )

        return self._run(stage, make)

    def discovered(self) -> Path:
        """The target domain's routing counts, as an expert profile."""

        def make(folder: Path) -> None:
            discovery, model = self.config.discovery, self.loaded
            with self._work(self.cell.discover, f"discover: experts for {self.config.domain}") as advance:
                profile = discover(
                    model.model,
                    model.tokenizer,
                    self.cell.inputs.discover_part.records,
                    quantile=discovery.quantile,
                    stop_words=discovery.stop_words,
                    batch_tokens=discovery.batch_tokens,
                    checkpointing=discovery.checkpointing,
                    folder=folder,
                    progress=advance,
                )
            profile.save(folder / PROFILE)

        return self._run(self.cell.discover, make) / PROFILE

    def profile_path(self) -> Path:
        """The expert profile by the config's rule, or the user's own."""
        if self.config.discovery.profile is not None:
            return Path(self.config.discovery.profile)

        def make(folder: Path) -> None:
            rule = self.config.discovery.rule
            profile = ExpertProfile.load(self.discovered())
            scores = plugins.load(RULES, rule, "discovery.rule").score(profile.counts, self.config.seed)
            profile.rescored(rule, scores, self.config.seed).save(folder / PROFILE)

        return self._run(self.cell.score, make) / PROFILE

    @cached_property
    def profile(self) -> ExpertProfile:
        """The expert profile that methods `dsmoe` and `random` steer by."""
        return ExpertProfile.load(self.profile_path())

    def adapter(self) -> Path:
        """The SFT baseline's adapter, or the user's own."""
        if self.config.sft.adapter is not None:
            return Path(self.config.sft.adapter)

        def make(folder: Path) -> None:
            with self._work(self.cell.fine_tune, f"fine-tune: on {self.config.domain}") as advance:
                training = self._fine_tune(folder, lambda step, total, loss: advance(step, total, f"loss {loss:.2f}"))
            (folder / TRAINING).write_text(json.dumps(asdict(training), indent=2) + "\n", encoding="utf-8")
            self.reporter.say(
                f"fine-tune: {training.share:.1%} of the parameters, loss {training.losses[0]:.2f} to "
                f"{training.losses[-1]:.2f}, right on {training.accuracy_before:.0%} of its questions before, "
                f"{training.accuracy_after:.0%} after"
            )

        return self._run(self.cell.fine_tune, make)

    def _fine_tune(self, folder: Path, report: "Report") -> "Training":
        """Train the adapter here, or by several processes, to which the memory of the model that is loaded is left."""
        from dsmoe.baselines.sft import fine_tune
        from dsmoe.baselines.together import Task, fine_tune_together

        records, scoring = self.cell.inputs.train_part.records, self.cell.inputs.scoring
        sft, seed = self.config.sft, self.config.seed
        if sft.processes == 1:
            model = self.loaded
            return fine_tune(model.model, model.tokenizer, records, scoring, sft, seed, folder, report)
        path = self.model_path
        self.__dict__.pop("loaded", None)
        let_go()
        threads = max(1, self.cell.node.threads // sft.processes)
        task = Task(path, replace(self.config.model, threads=threads), tuple(records), scoring, sft, seed)
        return fine_tune_together(task, self.config.cluster.nodes, folder, report)

    def training(self) -> dict[str, Any] | None:
        """What fine-tuning did, None where the user brought an adapter."""
        if self.cell.inputs.own_adapter is not None:
            return None
        training: dict[str, Any] = json.loads((self.adapter() / TRAINING).read_text(encoding="utf-8"))
        return training

    def steering(self, method: str) -> Steering | None:
        """What `method` steers, None if it does not."""
        if method not in self._steerings:
            self._steerings[method] = self._steering(method)
        return self._steerings[method]

    def _steering(self, method: str) -> Steering | None:
        config = self.config.steering
        if method == "steering":
            return self.cell.inputs.own_steering
        if method not in ("dsmoe", "random"):
            return None
        steering = Steering.of_config(self.profile, config)
        steering.check_fit(router_shape(self.config.model))
        return steering.random_control(self.config.seed) if method == "random" else steering

    @contextmanager
    def applied(self, method: str) -> Iterator[tuple[LoadedModel, RoutingWatch | None]]:
        """The model as `method` makes it, watched where it is steered."""
        steering = self.steering(method)
        # What fine-tunes may want the memory of the model that is loaded.
        adapter = self.adapter() if method == "sft" else None
        loaded = self.loaded
        if steering is not None:
            with steer(loaded.model, steering) as watch:
                yield loaded, watch
        elif adapter is not None:
            from dsmoe.baselines.lora import adapted

            with adapted(loaded.model, adapter) as model:
                yield LoadedModel(model, loaded.tokenizer), None
        elif method == "base":
            yield loaded, None
        else:
            raise InputError(f"methods: {method!r} is not known")

    def answers(self, method: str) -> list[Answers]:
        """Every test question as `method` answered it, the target domain first; only what is missing is asked."""
        stages = {domain: self.cell.evaluate(method, domain) for domain in self.cell.inputs.domains}
        finished = {domain for domain, stage in stages.items() if is_finished(stage.folder(self.cell.results))}
        for domain in sorted(finished):
            stages[domain].of(self.journal).write("reused")
        if missing := [domain for domain in stages if domain not in finished]:
            with self.applied(method) as (loaded, watch):
                for domain in missing:
                    self._run(stages[domain], partial(self._ask, method, domain, loaded, watch))
        return [_read_answers(stage.folder(self.cell.results)) for stage in stages.values()]

    def _ask(self, method: str, domain: str, loaded: LoadedModel, watch: RoutingWatch | None, folder: Path) -> None:
        benchmark = self.config.benchmark
        stage = self.cell.evaluate(method, domain)
        with self._work(stage, f"evaluate: {method} on {domain}") as advance:
            samples: Sequence[Sample] = evaluate(
                loaded, self.cell.inputs.task(domain), method, benchmark.metric, benchmark.batch_size, advance
            )
        write_samples(samples, folder / SAMPLES)
        if watch is not None:
            (folder / ROUTING).write_text(json.dumps(asdict(watch.take())) + "\n", encoding="utf-8")


def _read_answers(folder: Path) -> Answers:
    """What an evaluation left behind."""
    routing = folder / ROUTING
    changed = RoutingChange(**json.loads(routing.read_text(encoding="utf-8"))) if routing.exists() else None
    return Answers(read_samples(folder / SAMPLES), changed)
