"""Submitting jobs: from the cluster's config to the sbatch script, through submitit."""

import io
import math
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsmoe.config import ClusterConfig
from dsmoe.disk import writing
from dsmoe.errors import InputError
from dsmoe.launch.job import Job
from dsmoe.launch.submission import Array

FOR_EVER = 10**6
"""How often a job may run out of time: whether it gets anywhere is for itself to see."""
WITH_USR2_BLOCKED = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""Starts Python so that USR2 waits until the job asks for it: it would kill a Python that does not listen yet."""
FIRST_NODE = ("--nodes=1", "--ntasks=1")
"""The job runs once; whatever wants the other nodes starts it there."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one job gets; jobs of one array all get the same."""

    cluster: ClusterConfig
    gpus: int
    threads: int


def parameters(resources: Resources, array: Array, folder: Path) -> dict[str, Any]:
    """What submitit is told about an array whose script and logs lie in `folder`."""
    cluster = resources.cluster
    cpus = cluster.cpus or resources.threads
    memory = None if cluster.memory_gb is None else f"{math.ceil(cluster.memory_gb * 1e9 / 2**20)}M"
    environment = {"OMP_NUM_THREADS": resources.threads, **cluster.environment}
    further = {"requeue": True, **{key: value for key, value in cluster.sbatch.items() if value is not False}}
    found = {
        "job_name": array.name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "nodes": cluster.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": cpus,
        "gpus_per_node": resources.gpus or None,
        "mem": memory,
        "time": cluster.time_minutes,
        "signal_delay_s": cluster.signal_seconds,
        "array_parallelism": min(cluster.max_parallel or len(array.jobs), len(array.jobs)),
        "additional_parameters": further,
        "setup": [*(f"export {name}={shlex.quote(str(value))}" for name, value in environment.items()), *cluster.setup],
        "teardown": _last_words(folder),
        # Since 22.05 srun no longer takes them from sbatch.
        "srun_args": [f"--cpus-per-task={cpus}", *(FIRST_NODE if cluster.nodes > 1 else ())],
        "stderr_to_stdout": True,
    }
    return {"wckey": None, **{key: value for key, value in found.items() if value is not None}}


def submit(resources: Resources, array: Array, submission: Path, run: str) -> Array:
    """Hand an array to Slurm; the same array, with the id that Slurm gave it. `run` runs a cell, as `module:function`.

    Raises InputError for what sbatch refuses, with its own words, and for what the disk does.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = executor_of(resources, array, submission)
    jobs = [Job(str(submission), cells, run) for cells in array.jobs]
    try:
        # submitit prints what sbatch says, which is in the error too.
        with writing(submission), redirect_stderr(io.StringIO()):
            submitted = executor.submit_array(jobs)
    except (FailedJobError, FailedSubmissionError) as error:
        reason = " ".join(str(error).replace("sbatch: error:", "").split())
        raise InputError(f"cluster: sbatch refuses: {reason}") from error
    return Array(array.name, array.jobs, submitted[0].job_id.partition("_")[0])


def executor_of(resources: Resources, array: Array, submission: Path) -> Any:
    """The submitit executor that submits the array."""
    from submitit import SlurmExecutor

    folder = array.folder(submission)
    python = shlex.join([sys.executable, "-S", "-c", WITH_USR2_BLOCKED])
    executor = SlurmExecutor(folder, max_num_timeout=FOR_EVER, python=python)
    executor.update_parameters(**parameters(resources, array, folder))
    return executor


def chunks(jobs: Sequence[tuple[str, ...]], size: int) -> list[tuple[tuple[str, ...], ...]]:
    """The jobs in arrays of at most `size`."""
    return [tuple(jobs[start : start + size]) for start in range(0, len(jobs), size)]


def _last_words(folder: Path) -> list[str]:
    """Lines after Python's end that keep its status, and which run of the job it was, where Slurm keeps no accounts."""
    job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    return [
        "code=$?",
        f'echo "$code ${{SLURM_RESTART_COUNT:-0}}" > {shlex.quote(str(folder))}/"{job}".exit',
        "exit $code",
    ]
