"""The whole config of a run."""

import re
from dataclasses import dataclass
from typing import Annotated

from annotated_types import MinLen

from dsmoe.config.backend import VllmConfig
from dsmoe.config.evidence import AnalysisConfig, CalibrationConfig
from dsmoe.config.methods import DiscoveryConfig, SftConfig, SteeringConfig
from dsmoe.config.model import ModelConfig
from dsmoe.config.questions import GENERATES, BenchmarkConfig, DatasetConfig, GenerationConfig, Origin
from dsmoe.config.running import ClusterConfig, PathsConfig, TrackingConfig
from dsmoe.config.types import Backend, Seed, Text

STUDY = re.compile(r"(?!stages$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Config:
    model: ModelConfig
    dataset: DatasetConfig
    benchmark: BenchmarkConfig
    generation: GenerationConfig
    discovery: DiscoveryConfig
    steering: SteeringConfig
    sft: SftConfig
    calibration: CalibrationConfig
    analysis: AnalysisConfig
    vllm: VllmConfig
    paths: PathsConfig
    cluster: ClusterConfig
    tracking: TrackingConfig
    domain: Text
    """The target domain."""
    methods: Annotated[tuple[Text, ...], MinLen(1)]
    """What is compared: base, sft, dsmoe, other rules as their papers steer, random, other_domain, oracle, steering."""
    backend: Backend
    """transformers answers the questions, or vllm an engine of it; all else is done by transformers."""
    study: str
    """The folder of this study's cells below paths.results."""
    seed: Seed
    """Seeds fine-tuning, the random controls, sampled answers and the bootstrap."""

    @property
    def questions(self) -> Origin:
        """Where the test questions come from."""
        return self.dataset if self.benchmark.source is None else self.benchmark

    def __post_init__(self) -> None:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods: one is named twice: {', '.join(self.methods)}")
        nodes, processes = self.cluster.nodes, self.sft.processes
        if nodes > 1 and not self.fine_tunes:
            raise ValueError(f"cluster.nodes: {nodes}, but a model runs on one node unless method sft fine-tunes it")
        if processes % nodes:
            raise ValueError(f"cluster.nodes: {nodes} cannot share sft.processes={processes} evenly")
        if self.benchmark.task not in GENERATES and self.generation.changed:
            raise ValueError(
                f"generation.{self.generation.changed[0]}: benchmark.task={self.benchmark.task} generates nothing; "
                f"allowed with {', '.join(sorted(GENERATES))}"
            )
        if "steering" in self.methods and self.steering.file is None:
            raise ValueError("methods: steering wants steering.file=FILE, a steering of your own")
        if not STUDY.fullmatch(self.study):
            raise ValueError(
                f"study: {self.study!r} is not a plain name of at most 100 letters, digits, '.', '_' and '-', "
                "nor may it be 'stages'"
            )

    @property
    def fine_tunes(self) -> bool:
        """Whether an adapter is trained for method sft."""
        return "sft" in self.methods and self.sft.adapter is None
