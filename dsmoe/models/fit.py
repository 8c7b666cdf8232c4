"""Whether what a model needs is there: on the GPUs of a job, or in the memory of a machine without any."""

import math
import os
from dataclasses import dataclass

import torch

from dsmoe.config import ClusterConfig, Config, ModelConfig
from dsmoe.errors import InputError
from dsmoe.models.load import Node, threads_of
from dsmoe.models.needs import Needs

USUAL = 80e9
"""Bytes of the GPU that is spoken of where there is none."""
SHARE, CONTEXT = 0.9, 2**30
"""What of a GPU can be filled, for fragments, less the bytes that its CUDA context takes."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a job has: GPUs, the bytes of each, and the bytes of the host."""

    gpus: int
    gpu_memory: float
    memory: float

    @property
    def room(self) -> float:
        """Bytes where the model runs, filled to the brim: the GPUs', or the host's where there is none."""
        return self.gpus * self.gpu_memory if self.gpus else self.memory

    @property
    def usable(self) -> float:
        """Bytes of the same that can be filled."""
        return self.gpus * usable(self.gpu_memory) if self.gpus else self.memory

    def __str__(self) -> str:
        if self.gpus:
            return f"{self.gpus} × {self.gpu_memory / 1e9:.3g} GB of GPU memory"
        return f"{gigabytes(self.memory)} of memory and no GPU"


def machine(cluster: ClusterConfig, model: ModelConfig) -> Machine:
    """What the config says there is and, where it says nothing, what this machine has; no GPUs for a model on the CPU.

    Raises InputError where the config counts GPUs whose memory nobody knows.
    """
    here = [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
    gpus = len(here) if cluster.gpus is None else cluster.gpus
    if model.device == "cpu":
        gpus = 0
    each = min(here, default=0) if cluster.gpu_memory_gb is None else cluster.gpu_memory_gb * 1e9
    if gpus and not each:
        raise InputError("cluster.gpu_memory_gb: wants a value, since cluster.gpus counts GPUs and there is none here")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(gpus, float(each), memory if cluster.memory_gb is None else cluster.memory_gb * 1e9)


def job_node(config: Config) -> Node:
    """Where a job runs the model: what the config says of the cluster and, where it says nothing, as this machine.

    Raises InputError where the model asks for a GPU and jobs have none.
    """
    device = "cuda" if machine(config.cluster, config.model).gpus else "cpu"
    if device == "cpu" and config.model.device == "cuda":
        raise InputError("model.device: cuda is asked for, but cluster.gpus gives jobs none; allowed are cpu and auto")
    return Node(device, config.model.threads or config.cluster.cpus or threads_of(config.model))


def usable(memory: float) -> float:
    """Bytes that can be filled of a GPU of `memory` bytes."""
    return SHARE * memory - CONTEXT


def gpus(size: float, memory: float) -> int:
    """How many GPUs of `memory` bytes hold `size` bytes. Raises InputError where one holds nothing but its context."""
    if usable(memory) <= 0:
        raise InputError(f"cluster.gpu_memory_gb: {gigabytes(memory)} is no more than a CUDA context takes")
    return math.ceil(size / usable(memory))


def check_fits(needs: Needs, there: Machine) -> list[str]:
    """What may not fit beside the weights, a line each, naming the key to lower; nothing where all fits.

    Raises InputError where the weights alone take more than there is.
    """
    key = "cluster.gpus" if there.gpus else "cluster.memory_gb"
    if needs.weights > there.room:
        memory = there.gpu_memory if there.gpus else USUAL
        raise InputError(
            f"{key}: model {needs.name} has {gigabytes(needs.weights)} of weights in {needs.dtype}, but there are "
            f"{there}; {gpus(needs.total, memory)} × {memory / 1e9:.3g} GB would hold what it needs"
        )
    free = max(there.usable - needs.weights, 0)
    batches = (
        ("benchmark.batch_size", needs.sequences, f"sequences of {needs.tokens} tokens", needs.evaluation),
        ("discovery.batch_tokens", needs.discovery_tokens, "tokens a pass", needs.discovery),
    )
    return [
        f"{key}: {batch} {what} want {gigabytes(size)} beside the weights, and {gigabytes(free)} are free; "
        + _most(batch, size, free)
        for key, batch, what, size in batches
        if size > free
    ]


def check_processes(config: Config, there: Machine) -> None:
    """Raise InputError where a node has GPUs, but fewer than it would run of processes that want one each."""
    spread = config.vllm.tensor_parallel
    if config.backend == "vllm" and 0 < there.gpus < spread:
        raise InputError(
            f"vllm.tensor_parallel: {spread} GPUs are wanted, and there are {there.gpus}; see cluster.gpus"
        )
    here = config.sft.processes // config.cluster.nodes
    if config.fine_tunes and config.sft.processes > 1 and 0 < there.gpus < here:
        raise InputError(f"sft.processes: {here} on a node want a GPU each, and it has {there.gpus}; see cluster.gpus")


def check_nodes(cluster: ClusterConfig) -> None:
    """Raise InputError unless this runs on as many nodes as the config wants."""
    here = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if cluster.nodes > here:
        raise InputError(
            f"cluster.nodes: {cluster.nodes}, but this runs on {here}; a Slurm job has more: hydra/launcher=slurm"
        )


def gigabytes(size: float) -> str:
    """Bytes in words: 10^9 of them are a GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _most(batch: int, size: int, free: float) -> str:
    """How much of the batch fits: what it needs grows in proportion."""
    most = int(batch * free / size)
    return f"lower it to {most}" if most else "not even 1 of them fits"
