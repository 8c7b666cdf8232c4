"""The workshop: what a cell asks its questions with, each made when it is first wanted, the model loaded once."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dsmoe.cell import Cell, pretraining
from dsmoe.config import Batches, PretrainConfig, SftConfig
from dsmoe.discovery.discover import discover
from dsmoe.discovery.profile import ExpertProfile
from dsmoe.discovery.rule import rule_of
from dsmoe.domains import world
from dsmoe.effort import Effort, efforts
from dsmoe.evaluation.engine import stop_engine
from dsmoe.journal import Journal
from dsmoe.methods import Recipe
from dsmoe.models.load import LoadedModel, let_go, load_model
from dsmoe.progress import Advance, Reporter
from dsmoe.provenance import stable_hash
from dsmoe.stage import Stage

if TYPE_CHECKING:
    from dsmoe.baselines.sft import Report, Training

PROFILE = "profile.safetensors"
TRAINING = "training.json"


class Workshop:
    """Makes a cell's checkpoint, expert profiles and adapters, or finds them made; `journal` is told."""

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

    def _forget(self) -> None:
        """Free the memory of the model that is loaded."""
        self.__dict__.pop("loaded", None)
        let_go()

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

    def discovered(self, domains: tuple[str, ...]) -> Path:
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
            counted = ExpertProfile.load(own or self.discovered((recipe.domain,)))
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
        self._forget()
        threads = max(1, self.cell.node.threads // sft.processes)
        task = Task(path, replace(self.config.model, threads=threads), tuple(records), scoring, sft, seed)
        return fine_tune_together(task, self.config.cluster.nodes, folder, report)
