"""A session: the stages of one cell, each made when it is first wanted, the model loaded once for all of them."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dsmoe.cell import Cell, pretraining
from dsmoe.config import AUTO, Batches, PretrainConfig, SftConfig, SteeringConfig
from dsmoe.discovery.discover import discover
from dsmoe.discovery.profile import ExpertProfile
from dsmoe.discovery.rule import rule_of
from dsmoe.domains import world
from dsmoe.effort import Effort, efforts
from dsmoe.evaluation.engine import Engine, stop_engine
from dsmoe.evaluation.samples import Sample, read_samples, write_samples
from dsmoe.journal import Journal
from dsmoe.methods import ORACLE, OWN, UNSTEERED, Recipe, Settings, Trial, settings, tuned_as
from dsmoe.models.load import LoadedModel, fresh_model, let_go, load_model, router_shape
from dsmoe.progress import Advance, Reporter
from dsmoe.provenance import stable_hash
from dsmoe.results import RoutingChange
from dsmoe.serving import serve
from dsmoe.stage import Stage, is_finished
from dsmoe.steering.steer import steer
from dsmoe.steering.steering import Steering
from dsmoe.steering.watch import RoutingWatch
from dsmoe.tuning import as_chosen, read_choice, write_choice

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
        stop_engine()
        return load_model(self.model_path, self.config.model, stable_hash(self.cell.model_key["weights"]))

    @property
    def model_path(self) -> str:
        """Where the model lies: a folder, or on the Hub."""
        return str(self.pretrained() if self.cell.pretrain else self.config.model.path)

    def pretrained(self) -> Path:
        """The embedded model's checkpoint."""
        assert self.config.model.pretrain is not None
        return self.pretrained_as(self.config.model.pretrain)

    def pretrained_as(self, config: PretrainConfig, batches: Batches = "mixed") -> Path:
        """The checkpoint of an embedded model that is trained otherwise."""
        from dsmoe.models.tiny import pretrain

        stage = pretraining(config, batches)

        def make(folder: Path) -> None:
            with self._work(stage, "pretrain: the embedded model") as advance:
                pretrain(
                    folder,
                    world.statements(),
                    config,
                    lambda step, loss: advance(step, config.steps, f"loss {loss:.2f}"),
                    batches,
                )

        return self._run(stage, make)

    def discovered(self, domains: Sequence[str]) -> Path:
        """These domains' routing counts, as an expert profile."""
        stage = self.cell.discover(domains)

        def make(folder: Path) -> None:
            discovery, model = self.config.discovery, self.loaded
            with self._work(stage, f"discover: experts for {', '.join(domains)}") as advance:
                profile = discover(
                    model.model,
                    model.tokenizer,
                    self.cell.inputs.discover_part(domains).records,
                    rule="frequency",
                    quantile=discovery.quantile,
                    stop_words=discovery.stop_words,
                    span=discovery.span,
                    max_new_tokens=discovery.max_new_tokens,
                    markers=sorted(discovery.markers),
                    batch_tokens=discovery.batch_tokens,
                    checkpointing=discovery.checkpointing,
                    folder=folder,
                    progress=advance,
                )
            profile.save(folder / PROFILE)

        return self._run(stage, make) / PROFILE

    def profile_path(self, recipe: Recipe) -> Path:
        """The expert profile by a recipe's rule and for its domain, or the user's own."""
        own = self.config.discovery.profile if recipe.domain == self.config.domain else None
        if own is not None and recipe == self.cell.inputs.recipe("dsmoe"):
            return Path(own)

        def make(folder: Path) -> None:
            contrasts = rule_of(recipe.rule).contrasts
            counted = ExpertProfile.load(own or self.discovered([recipe.domain]))
            others = self.cell.inputs.contrast(recipe.domain)
            counted.scored(
                recipe.rule,
                contrast=ExpertProfile.load(self.discovered(others)) if contrasts else None,
                markers=self.config.discovery.markers,
                seed=self.config.seed,
            ).save(folder / PROFILE)

        return self._run(self.cell.score(recipe.rule, recipe.domain), make) / PROFILE

    def profile(self, recipe: Recipe) -> ExpertProfile:
        """The expert profile that a recipe steers by."""
        return ExpertProfile.load(self.profile_path(recipe))

    def adapter(self, sft: SftConfig) -> Path:
        """The SFT baseline's adapter, or the user's own."""
        if sft.adapter is not None:
            return Path(sft.adapter)
        stage = self.cell.fine_tune(sft)

        def make(folder: Path) -> None:
            with self._work(stage, f"fine-tune: on {self.config.domain}") as advance:
                training = self._fine_tune(
                    sft, folder, lambda step, total, loss: advance(step, total, f"loss {loss:.2f}")
                )
            (folder / TRAINING).write_text(json.dumps(asdict(training), indent=2) + "\n", encoding="utf-8")
            self.reporter.say(
                f"fine-tune: {training.share:.1%} of the parameters, loss {training.losses[0]:.2f} to "
                f"{training.losses[-1]:.2f}, right on {training.accuracy_before:.0%} of its questions before, "
                f"{training.accuracy_after:.0%} after"
            )

        return self._run(stage, make)

    def choice(self, method: str) -> dict[str, Any] | None:
        """What was chosen on dev for a method, with the curve; None where its settings leave nothing open."""
        stage, method = self.cell.choose(method), tuned_as(method)
        if stage is None:
            return None
        of = settings(method, self.config)
        assert of is not None

        def ask(trial: Trial) -> Sequence[Sequence[Sample]]:
            return [answers.samples for answers in self.answers(trial)]

        return read_choice(self._run(stage, lambda folder: write_choice(folder, method, of, ask)))

    def settings(self, method: str) -> Settings | None:
        """What a method is set to, with what was chosen on dev for what its config leaves open."""
        of, chosen = settings(tuned_as(method), self.config), self.choice(method)
        return of if of is None or chosen is None else as_chosen(of, chosen["chosen"])

    def _fine_tune(self, sft: SftConfig, folder: Path, report: "Report") -> "Training":
        """Train the adapter here, or by several processes, to which the memory of the model that is loaded is left."""
        from dsmoe.baselines.sft import fine_tune
        from dsmoe.baselines.together import Task, fine_tune_together

        records, scoring = self.cell.inputs.train_part.records, self.cell.inputs.scoring
        seed = self.config.seed
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
        adapter = self.adapter(self._sft(Trial("sft")))
        training: dict[str, Any] = json.loads((adapter / TRAINING).read_text(encoding="utf-8"))
        return training

    def steering(self, trial: Trial) -> Steering | None:
        """What a trial steers, None if it does not."""
        method = trial.method
        if method in UNSTEERED:
            return None
        if method == OWN:
            return self.cell.inputs.own_steering
        config = trial.settings or self.settings(method)
        assert isinstance(config, SteeringConfig)
        if method == ORACLE:
            return self._planted(config)
        recipe = self.cell.inputs.recipe(method)
        assert recipe is not None
        steering = Steering.suggested(self.profile(recipe), config, recipe.suggestion)
        steering.check_fit(router_shape(self.config.model))
        return steering.random_control(self.config.seed + trial.draw) if method == "random" else steering

    def _planted(self, config: SteeringConfig) -> Steering:
        """The target domain's planted experts, steered as the config says."""
        from dsmoe.models.planted import PLANTED, PlantedExperts

        shape = router_shape(self.config.model)
        assert config.strength != AUTO
        return Steering(
            PlantedExperts.load(self.pretrained() / PLANTED).of(self.config.domain),
            config.strength,
            config.mode,
            config.scale_back,
            architecture=shape.architecture,
            num_layers=shape.num_layers,
            origin={"planted": self.config.domain},
        )

    @contextmanager
    def applied(self, trial: Trial) -> Iterator[tuple[LoadedModel | Engine, RoutingWatch | None]]:
        """The model as a trial's method makes it, watched where transformers is steered."""
        steering = self.steering(trial)
        if self.config.backend == "vllm":
            with self._served(trial, steering) as served:
                yield served, None
            return
        # What fine-tunes may want the memory of the model that is loaded.
        adapter = self.adapter(self._sft(trial)) if trial.method == "sft" else None
        loaded = self.loaded
        if steering is not None:
            with steer(loaded.model, steering) as watch:
                yield loaded, watch
        elif adapter is not None:
            from dsmoe.baselines.lora import adapted

            with adapted(loaded.model, adapter) as model:
                yield LoadedModel(model, loaded.tokenizer), None
        else:
            yield loaded, None

    @contextmanager
    def _served(self, trial: Trial, steering: Steering | None) -> Iterator[Engine]:
        """The same by an engine: one for all that steers, and one on weights that have the adapter in them."""
        weights = stable_hash(self.cell.model_key["weights"])
        if trial.method != "sft":
            found = self._engine(self.model_path, self.config.model.revision, weights)
            found.steer(None if steering is None else steering.to_json())
            yield found
            return
        from dsmoe.baselines.lora import save_merged

        adapter = self.adapter(self._sft(trial))
        stop_engine()
        with TemporaryDirectory(prefix="dsmoe-merged-") as folder:
            save_merged(fresh_model(self.model_path, self.config.model), adapter, Path(folder))
            try:
                yield self._engine(folder, None, f"{weights} {adapter}")
            finally:
                stop_engine()

    def _engine(self, path: str, revision: str | None, weights: str) -> Engine:
        """The engine of a checkpoint; of transformers' model no memory is kept."""
        self.__dict__.pop("loaded", None)
        let_go()
        return serve(self.config, path, revision, weights)

    def _sft(self, trial: Trial) -> SftConfig:
        """How a trial fine-tunes; with an adapter of one's own, as configured."""
        of = trial.settings or self.settings("sft") or self.config.sft
        assert isinstance(of, SftConfig)
        return of

    def answers(self, trial: Trial, domains: Sequence[str] | None = None) -> list[Answers]:
        """Every question as a trial answered it, the target domain first; only what is missing is asked."""
        asked = self.cell.inputs.domains if domains is None else domains
        stages = {domain: self.cell.evaluate(trial, domain) for domain in asked}
        finished = {domain for domain, stage in stages.items() if is_finished(stage.folder(self.cell.results))}
        for domain in sorted(finished):
            stages[domain].of(self.journal).write("reused")
        if missing := [domain for domain in stages if domain not in finished]:
            with self.applied(trial) as (loaded, watch):
                for domain in missing:
                    self._run(stages[domain], partial(self._ask, trial, domain, loaded, watch))
        return [_read_answers(stage.folder(self.cell.results)) for stage in stages.values()]

    def _ask(
        self, trial: Trial, domain: str, loaded: LoadedModel | Engine, watch: RoutingWatch | None, folder: Path
    ) -> None:
        from dsmoe.evaluation.evaluate import evaluate  # lm-eval takes seconds, and a finished cell needs none of it.

        config, task = self.config, self.cell.inputs.task(trial.split, domain)
        with self._work(self.cell.evaluate(trial, domain), f"evaluate: {trial.name} on {domain}") as advance:
            samples: Sequence[Sample] = evaluate(
                loaded, task, trial.method, config.benchmark, config.generation, config.seed, advance
            )
        write_samples(samples, folder / SAMPLES)
        if watch is not None:
            (folder / ROUTING).write_text(json.dumps(asdict(watch.take())) + "\n", encoding="utf-8")


def _read_answers(folder: Path) -> Answers:
    """What an evaluation left behind."""
    routing = folder / ROUTING
    changed = RoutingChange(**json.loads(routing.read_text(encoding="utf-8"))) if routing.exists() else None
    return Answers(read_samples(folder / SAMPLES), changed)
