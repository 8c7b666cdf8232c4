"""Fine-tuning by several processes, one a GPU, on one node or several: who starts them, and what each does.

torchrun starts the processes and ends all when one of them fails. They end by themselves when whoever started them is
no more, however that came about.
"""

import json
import os
import platform
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import TypeAdapter

from dsmoe.baselines.sft import Report, Training, fine_tune
from dsmoe.config import ModelConfig, SftConfig
from dsmoe.domains.prompts import Scoring
from dsmoe.domains.records import Record
from dsmoe.errors import InputError
from dsmoe.launch.state import cause_of
from dsmoe.models.load import device_of, fresh_model

TASK, TRAINING, ERROR = "task.json", "training.json", "error.json"
STEP = "dsmoe step "
"""Begins a line of standard output that says how far the training is."""
UNTOLD = 'trap "" USR1 USR2; exec "$0" "$@"'
"""Slurm sends all processes of a job the signal to stop, but what it means is for the one that started these to say."""
LAST_LINES = 100
SECONDS_TO_END = 10.0


@dataclass(frozen=True, slots=True)
class Task:
    """All that the processes do: the model at `path`, fine-tuned on the records."""

    path: str
    model: ModelConfig
    records: tuple[Record, ...]
    scoring: Scoring
    sft: SftConfig
    seed: int


def fine_tune_together(task: Task, nodes: int, folder: Path, report: Report) -> Training:
    """What `fine_tune` does, by `task.sft.processes` processes on `nodes` nodes, for a model that they load themselves.

    Nodes have to share `folder`. Raises InputError for what the processes refuse, MemoryError where their memory ran
    out, and RuntimeError for whatever else ended one of them.
    """
    with TemporaryDirectory(prefix=".together-", dir=folder) as name:
        shared = Path(name)
        (shared / TASK).write_text(json.dumps(asdict(task), ensure_ascii=False), encoding="utf-8")
        environment = dict(os.environ)
        if device_of(task.model) == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""  # torch would take what GPUs there are.
        lines: deque[str] = deque(maxlen=LAST_LINES)
        with _started(command(shared, task.sft.processes, nodes), environment) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(STEP):
                    report(*json.loads(line.removeprefix(STEP)))
                else:
                    lines.append(line)
            status = process.wait()
        if status:
            raise _error_of(shared, status, lines)
        return _TRAINING.validate_json((shared / TRAINING).read_text(encoding="utf-8"))


def command(shared: Path, processes: int, nodes: int) -> list[str]:
    """The command line that starts the processes: torchrun, on several nodes once on each by Slurm's srun."""
    meeting = ["--standalone"]
    if nodes > 1:
        here = f"{platform.node()}:{_free_port()}"
        meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={here}", f"--rdzv-id={shared.name}"]
    return [
        *(_srun(nodes) if nodes > 1 else []),
        *("sh", "-c", UNTOLD, sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={nodes}", f"--nproc-per-node={processes // nodes}", "--max-restarts=0", *meeting),
        *("-m", "dsmoe.baselines.together", str(shared)),
    ]


def _srun(nodes: int) -> list[str]:
    # The job's first step, which this runs in, holds the first node: they share its CPUs, GPUs and memory. What srun
    # bound that step to, and handed down in the environment, does not hold for other nodes.
    return [
        "srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--overlap", "--mem=0",
        "--cpu-bind=none", f"--cpus-per-task={os.environ.get('SLURM_CPUS_PER_TASK', '1')}", "--kill-on-bad-exit=1",
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def _started(arguments: list[str], environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A process that does not outlive the block, nor this process.

    Its standard input is a pipe that nobody writes to and that ends when this process does. In a session of its own,
    it is not interrupted by Ctrl-C but ended by this process, which is.
    """
    with subprocess.Popen(
        arguments,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                assert process.stdin is not None
                process.stdin.close()
                process.terminate()
                try:
                    process.wait(SECONDS_TO_END)
                except subprocess.TimeoutExpired:
                    process.kill()


def _error_of(shared: Path, status: int, lines: deque[str]) -> Exception:
    """What the first process to fail left behind or, where it was killed, what torchrun and srun say of it."""
    try:
        error = json.loads((shared / ERROR).read_text(encoding="utf-8"))
    except FileNotFoundError:
        sys.stderr.writelines(lines)
        if any("SIGKILL" in line for line in lines):
            return MemoryError("fine-tune: a process was killed, as is one that takes more memory than there is")
        return RuntimeError(f"fine-tune: its processes ended with status {status}, and none said why")
    if error["cause"] == "input":
        return InputError(error["message"])
    sys.stderr.writelines(lines)
    kind = MemoryError if error["cause"] == "memory" else RuntimeError
    return kind(f"fine-tune: on {error['host']}: {error['message']}")


def fine_tune_share(task: Task, folder: Path, report: Report | None) -> Training:
    """What each of the processes that torchrun started does: `fine_tune`, with its share of the model."""
    loaded = fresh_model(task.path, task.model, task.sft.processes)
    # Weights are gathered whole now and then; what is whole cannot be frozen for good.
    model = loaded.model.requires_grad_(False)
    return fine_tune(model, loaded.tokenizer, task.records, task.scoring, task.sft, task.seed, folder, report)


def _work(shared: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        first = os.environ["RANK"] == "0"
        task = _TASK.validate_json((shared / TASK).read_text(encoding="utf-8"))
        training = fine_tune_share(task, shared.parent, _say if first else None)
        if first:
            (shared / TRAINING).write_text(json.dumps(asdict(training)), encoding="utf-8")
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    except Exception as error:
        _leave(shared, error)
        raise


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def _say(step: int, total: int, loss: float) -> None:
    sys.stdout.write(f"{STEP}{json.dumps([step, total, loss])}\n")
    sys.stdout.flush()


def _leave(shared: Path, error: Exception) -> None:
    """The error, unless another process left one: its peers fail because it did."""
    message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    content = {"cause": cause_of(error), "message": message, "host": platform.node()}
    try:
        with (shared / ERROR).open("x", encoding="utf-8") as file:
            json.dump(content, file)
    except FileExistsError:
        pass


_TASK, _TRAINING = TypeAdapter(Task), TypeAdapter(Training)

if __name__ == "__main__":
    _work(Path(sys.argv[1]))
