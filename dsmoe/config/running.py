"""Where a run happens, who launches and who shows it, and where its results lie."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from dsmoe.config.types import Count, Launcher, Positive, Text, Tracking

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
class PathsConfig:
    results: Text
    """The folder of all results."""
    export: Text | None
    """A new folder for what dsmoe export writes."""
    report: Text | None
    """The folder that dsmoe report writes, an older report there replaced; null takes report below the study's."""


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
