"""The schema: what a run is, as frozen dataclasses; and where the YAML lies that fills it.

YAML in `conf/` composes it, `dsmoe.compose` validates it, and everything past the command line sees only these. The
line under a field is its help text in `dsmoe VERB --help`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, MinLen

Dtype = Literal["float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
Benchmark = Literal["option_text", "letter", "mmlu_pro", "gpqa", "aime"]
Metric = Literal["acc", "acc_norm", "exact_match"]
Mode = Literal["logit", "score", "gate", "force"]
Span = Literal["prompt", "question", "options", "generated"]
Auto = Literal["auto"]
AUTO: Auto = "auto"
"""In place of a number: chosen on dev, over the grid that stands beside it."""

Count = Annotated[int, Gt(0)]
Positive = Annotated[float, Interval(gt=0, lt=math.inf)]
Share = Annotated[float, Interval(gt=0, lt=1)]
Text = Annotated[str, MinLen(1)]
Strength = Annotated[float, Interval(gt=-1, lt=math.inf)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
Launcher = Literal["slurm"]
Tracking = Literal["offline", "online", "disabled"]

GENERATES = frozenset({"mmlu_pro", "gpqa", "aime"})
"""The benchmark tasks whose answers are generated; the others score given ones."""
STUDY = re.compile(r"(?!stages$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
UNNAMEABLE = "/\\#?%:\n\r"
OWN_OPTIONS = {
    **{key: f"use cluster.{key}" for key in ("partition", "account", "qos", "constraint", "nodes")},
    "time": "use cluster.time_minutes",
    "mem": "use cluster.memory_gb",
    "cpus-per-task": "use cluster.cpus",
    "gpus-per-node": "use cluster.gpus",
    "signal": "use cluster.signal_seconds",
    **dict.fromkeys(("array", "job-name", "output", "error", "open-mode", "ntasks", "ntasks-per-node"), "dsmoe does"),
}
"""Options of sbatch that have a key of their own, or that jobs are known by."""


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    hidden_size: Count
    """Width of the residual stream."""
    num_layers: Count
    """Decoder layers, each with a router."""
    num_experts: Count
    """Experts a layer."""
    top_k: Count
    """Experts that a token is routed to."""
    expert_size: Count
    """Hidden width of one expert."""
    vocabulary_size: Count
    """Tokens of the byte-level BPE tokenizer that is trained with the model."""
    context_length: Count
    """Longest input in tokens."""
    steps: Count
    """Optimizer steps."""
    batch_tokens: Count
    """Tokens a step."""
    learning_rate: Positive
    """Peak learning rate of AdamW."""
    router_loss: Annotated[float, Interval(ge=0, lt=math.inf)]
    """Weight of the auxiliary load-balancing loss."""
    planted_loss: Positive | None
    """Weight of the routers' loss toward the planted experts of a positive control; null plants none."""
    seed: Seed
    """Seeds the weights and the order of the text."""

    def __post_init__(self) -> None:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k is {self.top_k}, but there are {self.num_experts} experts a layer")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    name: Text
    """What tables call the model."""
    path: str | None
    """A checkpoint folder or a Hub id; null for an embedded model."""
    revision: str | None
    """Branch, tag or commit on the Hub."""
    dtype: Dtype
    """Number type of the weights."""
    device: Device
    """Where the model runs; auto takes a GPU where there is one."""
    device_map: Text | None
    """How layers are spread over several GPUs, for accelerate: auto, balanced, sequential…; null is auto."""
    threads: Count | None
    """CPU threads; null leaves them to torch. Another number gives other bits."""
    attn_implementation: Text | None
    """How attention is computed: eager, sdpa, flash_attention_2…; null leaves it to transformers."""
    experts_implementation: Text | None
    """How the experts are computed: eager, grouped_mm…; null leaves it to transformers."""
    trust_remote_code: bool
    """Run Python code that comes with the checkpoint."""
    pretrain: PretrainConfig | None
    """The embedded model's shape and training; null where there is a path."""

    def __post_init__(self) -> None:
        if (self.path is None) == (self.pretrain is None):
            raise ValueError("path and pretrain: exactly one of them is given")


@dataclass(frozen=True, slots=True)
class SplitsConfig:
    discover: Share
    """Share of each domain for discovery and fine-tuning."""
    dev: Share
    """Share of each domain for choosing hyperparameters."""
    test: Share
    """Share of each domain for the comparison."""

    def __post_init__(self) -> None:
        if not math.isclose(self.discover + self.dev + self.test, 1):
            raise ValueError(f"discover + dev + test is {self.discover + self.dev + self.test:g}, not 1")


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    source: str
    """Where records come from: a module of dsmoe/domains/sources."""
    path: str | None
    """A local file in place of the Hub; for source=records, your own file."""
    revision: str | None
    """Branch, tag or commit on the Hub."""
    splits: SplitsConfig
    """How records are split."""

    key = "dataset"


@dataclass(frozen=True, slots=True)
class BenchmarkConfig:
    task: Benchmark
    """option_text scores the options' words, letter their letters; mmlu_pro, gpqa and aime are lm-eval's own tasks."""
    metric: Metric
    """The lm-eval metric that is compared."""
    source: str | None
    """Where its questions come from, all of them test, as for dataset.source; null asks the data set's test split."""
    path: str | None
    """A local file of them in place of the Hub."""
    revision: str | None
    """Branch, tag or commit of them on the Hub."""
    non_target: tuple[str, ...] | None
    """Domains beside the target; null takes all others that have test questions."""
    limit: Count | None
    """Most test questions a domain; null takes all."""
    batch_size: Count
    """Sequences a batch. Another size gives other bits."""
    max_new_tokens: Count
    """Longest generated answer, for tasks that generate."""

    key = "benchmark"

    def __post_init__(self) -> None:
        if self.source is None and (self.path or self.revision):
            raise ValueError("path and revision: want source too, the kind of questions that they are of")


Origin = DatasetConfig | BenchmarkConfig
"""What names where records come from: `source`, `path` and `revision` below `key`."""


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How answers are generated; `benchmark.max_new_tokens` says how long."""

    chat_template: bool
    """Ask through the checkpoint's chat template, examples as earlier turns."""
    system_prompt: Text | None
    """What stands before every question; with chat_template, the system's turn."""
    template_args: Mapping[Text, str | int | bool] = field(hash=False)
    """Further arguments of the chat template: +generation.template_args.enable_thinking=false."""
    think_end: Text | int | None
    """Text, or the id of a token, that ends the thinking: what stands before it is no answer, nor ends one."""
    samples: Count
    """Answers to each question; more than one want a temperature."""
    temperature: Annotated[float, Interval(ge=0, lt=math.inf)]
    """Of sampling; 0 always takes the likeliest token."""
    top_p: Annotated[float, Interval(gt=0, le=1)]
    """Sample from the likeliest tokens that together have this probability."""
    top_k: Count | None
    """Sample from this many likeliest tokens; null from all."""

    def __post_init__(self) -> None:
        if self.temperature == 0:
            for name, given in (("samples", self.samples > 1), ("top_p", self.top_p < 1), ("top_k", self.top_k)):
                if given:
                    raise ValueError(f"{name} is {getattr(self, name)}, but at temperature 0 nothing is sampled")
        if self.template_args and not self.chat_template:
            raise ValueError("template_args: are arguments of the chat template, but chat_template is false")

    @property
    def changed(self) -> list[str]:
        """The settings that are not the plainest: no template, no system prompt, one answer without sampling."""
        plain: tuple[Any, ...] = (False, None, {}, None, 1, 0.0, 1.0, None)
        names = self.__dataclass_fields__
        return [name for name, value in zip(names, plain, strict=True) if getattr(self, name) != value]


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    rule: str
    """How counts become scores: a module of dsmoe/discovery/rules."""
    quantile: Annotated[float, Interval(ge=0, lt=1)]
    """Tokens above this quantile of the pooled saliencies are important."""
    stop_words: str | tuple[str, ...]
    """Never important: english, a file with a word a line, or a list."""
    span: Span
    """Tokens that are counted: of the prompt, its question or its options, or those generated after it."""
    max_new_tokens: Count
    """Most tokens that are generated after a prompt, for span=generated."""
    markers: Mapping[Text, float] = field(hash=False)
    """Texts whose tokens rule rice scores by, each with its coefficient: +discovery.markers.TEXT=1."""
    other_domain: str | None
    """The domain of method other_domain; null takes the one after the target in the alphabet."""
    batch_tokens: Count
    """Padded tokens a forward and backward pass."""
    checkpointing: bool | None
    """Run each layer twice to save memory; null does so from a billion parameters."""
    limit: Count | None
    """Most records to discover from; null takes the whole split."""
    profile: str | None
    """An expert profile of your own in place of discovery."""


@dataclass(frozen=True, slots=True)
class SteeringConfig:
    strength: Strength | Auto
    """Steered experts count 1 + strength times; 0 changes nothing, below 0 suppresses; auto chooses on dev."""
    strength_grid: Annotated[tuple[Strength, ...], MinLen(1)]
    """What strength=auto chooses from."""
    num_experts: Count | Share | Auto
    """Experts to steer over all layers: a count, or a fraction below 1; auto chooses on dev."""
    num_experts_grid: Annotated[tuple[Count | Share, ...], MinLen(1)]
    """What num_experts=auto chooses from."""
    random_draws: Annotated[int, Ge(1)]
    """Draws of method random on the target: the first stands in the table, dsmoe is ranked among all."""
    layers: tuple[int, int] | None
    """Only experts of these layers: [first,last], both counted in; null takes all."""
    mode: Mode
    """What is scaled: logit, score (softmax or sigmoid) or gate (weights); force chooses always, or never below 0."""
    scale_back: bool
    """Whether mode gate keeps the sum of the weights."""
    file: str | None
    """A steering file of your own, for method steering."""

    def __post_init__(self) -> None:
        if self.layers is not None and not 0 <= self.layers[0] <= self.layers[1]:
            raise ValueError(f"layers: {list(self.layers)} is no window [first,last] of layers, counted from 0")


@dataclass(frozen=True, slots=True)
class SftConfig:
    adapter: str | None
    """A LoRA adapter of your own in place of fine-tuning."""
    rank: Count | Share
    """Rank of the LoRA matrices; below 1, the share of the model's parameters to train."""
    alpha: Positive
    """LoRA's scale: its matrices' product counts alpha / rank times."""
    learning_rate: Positive | Auto
    """Peak learning rate of AdamW; auto chooses on dev."""
    learning_rate_grid: Annotated[tuple[Positive, ...], MinLen(1)]
    """What learning_rate=auto chooses from."""
    epochs: Count | Auto
    """Passes over the training questions; auto chooses on dev."""
    epochs_grid: Annotated[tuple[Count, ...], MinLen(1)]
    """What epochs=auto chooses from."""
    batch_size: Count
    """Questions a step."""
    train_size: Count | None
    """Most questions to train on; null takes the whole discover split."""
    processes: Count
    """Processes that train together, one a GPU, each with its share of the weights; another number gives other bits."""

    def __post_init__(self) -> None:
        if self.processes > self.batch_size:
            raise ValueError(
                f"processes is {self.processes}, but a step has only batch_size={self.batch_size} questions"
            )


@dataclass(frozen=True, slots=True)
class CalibrationConfig:
    seeds: Count
    """Planted models on which rules are to find the truth, with seeds from 0."""
    strength: Strength
    """At which their found experts are steered."""
    studies: Count
    """Studies that are made from kept answers, for each true gain."""
    effects: Annotated[tuple[Share, ...], MinLen(1)]
    """True gains on the target, as fractions, whose finding is counted."""


@dataclass(frozen=True, slots=True)
class PathsConfig:
    results: Text
    """The folder of all results."""
    export: Text | None
    """A new folder for what dsmoe export writes."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    gpus: Annotated[int, Ge(0)] | None
    """GPUs a job has at most, fewer where the model needs fewer; null takes those of this machine."""
    gpu_memory_gb: Positive | None
    """Memory of one GPU in 10^9 bytes; null takes that of this machine's."""
    memory_gb: Positive | None
    """Memory of the host in 10^9 bytes, which a Slurm job asks for; null takes this machine's, or Slurm's default."""
    partition: Text | None
    """Slurm partition; null takes the cluster's default, as it does for account, qos and constraint."""
    account: Text | None
    """Whom Slurm charges."""
    qos: Text | None
    """Quality of service."""
    constraint: Text | None
    """Features that a node must have."""
    nodes: Count
    """Nodes a job: 1, or several among which sft.processes are spread; all else runs on the first of them."""
    cpus: Count | None
    """CPUs a job; null takes model.threads, or else torch's number of threads here."""
    time_minutes: Count
    """Time limit of a job; one that reaches it is queued again and goes on from its last finished stage."""
    signal_seconds: Count
    """How long before the time limit a job is told to stop."""
    cells_per_job: Count
    """Cells of one model that share a job, one after the other, the model loaded once."""
    max_array_size: Count
    """Most jobs in one Slurm array; more are split over several."""
    max_parallel: Count | None
    """Most jobs of an array that run side by side; null leaves it to Slurm."""
    retries: Annotated[int, Ge(0)]
    """With hydra.launcher.wait=true, how often a failed or lost cell is submitted again."""
    setup: tuple[Text, ...]
    """Lines of shell that a job runs first: modules, conda."""
    environment: Mapping[Text, str | int] = field(hash=False)
    """Environment variables of a job: +cluster.environment.NAME=VALUE; no secrets, they stand in its script."""
    sbatch: Mapping[Text, str | int | bool] = field(hash=False)
    """Further options of sbatch, by name: +cluster.sbatch.exclusive=true."""

    def __post_init__(self) -> None:
        for name in self.environment:
            if not VARIABLE.fullmatch(name):
                raise ValueError(f"environment: {name!r} cannot be the name of a variable")
        for option in self.sbatch:
            if (known := option.replace("_", "-")) in OWN_OPTIONS:
                raise ValueError(f"sbatch: {option} is not yours to set here: {OWN_OPTIONS[known]}")


@dataclass(frozen=True, slots=True)
class TrackingConfig:
    mode: Tracking
    """offline writes a wandb run beside the results, online sends it as well as it can, disabled does neither."""
    project: Text
    """The wandb project."""
    entity: Text | None
    """The user or team that the project belongs to; null is the API key's own."""
    tags: tuple[Text, ...]
    """Tags of every run, of 64 letters at most."""

    def __post_init__(self) -> None:
        if long := [tag for tag in self.tags if len(tag) > 64]:
            raise ValueError(f"tags: {long[0]!r} is longer than wandb's 64 letters")
        for key in ("project", "entity"):
            if bad := set(getattr(self, key) or "") & set(UNNAMEABLE):
                raise ValueError(f"{key}: {getattr(self, key)!r} holds {min(bad)!r}, which wandb has in no name")


@dataclass(frozen=True, slots=True)
class LauncherConfig:
    """What `hydra/launcher=…` chooses: where the cells of a sweep run, if not in this process."""

    name: Launcher
    """Who runs them."""
    wait: bool
    """Whether to wait until all cells are settled, and then show their tables."""


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
    paths: PathsConfig
    cluster: ClusterConfig
    tracking: TrackingConfig
    domain: Text
    """The target domain."""
    methods: Annotated[tuple[Text, ...], MinLen(1)]
    """What is compared: base, sft, dsmoe, other rules as their papers steer, random, other_domain, oracle, steering."""
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


def config_root() -> Path:
    """The folder that holds `conf/` and `sweeps/`: the package itself in a wheel, its parent in a checkout."""
    package = Path(__file__).parent
    return package if (package / "conf").is_dir() else package.parent


def choices(folder: Path) -> list[str]:
    """What can be chosen in a group's folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))
