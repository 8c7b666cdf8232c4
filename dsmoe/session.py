"""A session: a cell's methods asked its questions, with what the workshop makes for them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dsmoe.config import AUTO, SftConfig, SteeringConfig
from dsmoe.evaluation.engine import Engine, stop_engine
from dsmoe.evaluation.samples import Sample, read_samples, write_samples
from dsmoe.methods import ORACLE, OWN, UNSTEERED, Settings, Trial, settings, tuned_as
from dsmoe.models.load import LoadedModel, fresh_model, router_shape
from dsmoe.provenance import stable_hash
from dsmoe.results import RoutingChange
from dsmoe.serving import serve
from dsmoe.stage import is_finished
from dsmoe.steering.steer import steer
from dsmoe.steering.steering import Steering
from dsmoe.steering.watch import RoutingWatch
from dsmoe.tuning import as_chosen, read_choice, write_choice
from dsmoe.workshop import TRAINING, Workshop

SAMPLES = "samples.parquet"
ROUTING = "routing.json"


@dataclass(frozen=True, slots=True)
class Answers:
    """One method's answers to one domain's test questions, and, where it steers, what became of the choices."""

    samples: Sequence[Sample]
    routing_changed: RoutingChange | None


class Session(Workshop):
    """Asks a cell's methods."""

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
        self._forget()
        with TemporaryDirectory(prefix="dsmoe-merged-") as folder:
            save_merged(fresh_model(self.model_path, self.config.model), adapter, Path(folder))
            try:
                yield self._engine(folder, None, f"{weights} {adapter}")
            finally:
                stop_engine()

    def _engine(self, path: str, revision: str | None, weights: str) -> Engine:
        """The engine of a checkpoint; of transformers' model no memory is kept."""
        self._forget()
        return serve(self.config, path, revision, weights)

    def _sft(self, trial: Trial) -> SftConfig:
        """How a trial fine-tunes; with an adapter of one's own, as configured."""
        of = trial.settings or self.settings("sft") or self.config.sft
        assert isinstance(of, SftConfig)
        return of

    def answers(self, trial: Trial, domains: Sequence[str] | None = None) -> list[Answers]:
        """Every question as a trial answered it, the target domain first; only what is missing is asked."""
        asked = self.cell.inputs.asked(trial.split) if domains is None else domains
        stages = {domain: self.cell.evaluate(trial, domain) for domain in asked}
        finished = {domain for domain, stage in stages.items() if is_finished(stage.folder(self.cell.results))}
        for domain in sorted(finished):
            stages[domain].of(self.journal).write("reused")
        if missing := [domain for domain in stages if domain not in finished]:
            with self.applied(trial) as (loaded, watch):
                for domain in missing:
                    self._run(stages[domain], partial(self._ask, trial, domain, loaded, watch))
        return [_read_answers(stage.folder(self.cell.results), trial.method) for stage in stages.values()]

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


def _read_answers(folder: Path, method: str) -> Answers:
    """What an evaluation left behind; methods that do the same to the model share it, whoever asked first."""
    routing = folder / ROUTING
    changed = RoutingChange(**json.loads(routing.read_text(encoding="utf-8"))) if routing.exists() else None
    return Answers([replace(sample, method=method) for sample in read_samples(folder / SAMPLES)], changed)
