"""Fine-tuning by two processes: they do what one does, to rounding, and none outlives who waits for them."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import random_model, random_records, word_tokenizer
from pydantic import TypeAdapter
from safetensors.torch import load_file

from dsmoe.baselines.adapter import CONFIG, WEIGHTS
from dsmoe.baselines.sft import Training, fine_tune
from dsmoe.baselines.together import TASK, Task, command, fine_tune_together
from dsmoe.config import Dtype, ModelConfig, SftConfig
from dsmoe.errors import InputError
from dsmoe.models.load import fresh_model

FAMILIES = ("deepseek", "gpt_oss", "qwen2_moe")
"""A class of our own with shared experts; experts in which input comes before output, with biases; dense layers too."""
SFT = SftConfig(
    adapter=None,
    rank=2,
    alpha=4.0,
    learning_rate=1e-3,
    epochs=2,
    batch_size=4,
    train_size=None,
    learning_rate_grid=(1e-3,),
    epochs_grid=(1,),
    processes=2,
)
STEPS = 6
PATIENCE = 60.0


def task_of(path: Path, processes: int = 2, epochs: int = 2, dtype: Dtype = "float32") -> Task:
    """Nine questions in batches of four: in the last one of an epoch, there is none for the second process."""
    model = ModelConfig(
        name="tiny", path=str(path), revision=None, dtype=dtype, device="cpu", device_map=None, threads=1,
        attn_implementation=None, experts_implementation=None, trust_remote_code=False, pretrain=None,
    )  # fmt: skip
    return Task(
        path=str(path),
        model=model,
        records=tuple(random_records(9)),
        scoring="option_text",
        sft=replace(SFT, learning_rate_grid=(1e-3,), epochs_grid=(1,), processes=processes, epochs=epochs),
        seed=0,
    )


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder a family, with a model, what one process made of it, and what two did."""
    root = tmp_path_factory.mktemp("tasks")
    for family in FAMILIES:
        random_model(family).save_pretrained(root / family / "model")
        word_tokenizer().save_pretrained(root / family / "model")
        task = task_of(root / family / "model")
        (root / family / TASK).write_text(json.dumps(asdict(task)))
        (root / family / "alone").mkdir()
        loaded = fresh_model(task.path, task.model)
        training = fine_tune(
            loaded.model, loaded.tokenizer, task.records, task.scoring, task.sft, task.seed, root / family / "alone"
        )
        (root / family / "alone.json").write_text(json.dumps(asdict(training)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    worker = str(Path(__file__).with_name("together_worker.py"))
    subprocess.run([*torchrun, worker, str(root)], check=True, capture_output=True, timeout=600)
    return {family: root / family for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_do_what_one_does(family: str, tasks: dict[str, Path]) -> None:
    folder = tasks[family]
    alone = TypeAdapter(Training).validate_json((folder / "alone.json").read_text())
    first, second = (json.loads((folder / f"training-{rank}.json").read_text()) for rank in (0, 1))
    # The embedding's end and the output's beginning stay whole: of tiny models, they are more than of others.
    assert 0.45 < first.pop("held") < 0.6
    assert 0.45 < second.pop("held") < 0.6
    assert first == second
    together = TypeAdapter(Training).validate_python(first)
    assert len(together.losses) == STEPS
    assert together.losses == pytest.approx(alone.losses, rel=1e-4)
    assert replace(together, losses=()) == replace(alone, losses=())
    assert (folder / "together" / CONFIG).read_bytes() == (folder / "alone" / CONFIG).read_bytes()
    ours, theirs = (load_file(folder / name / WEIGHTS) for name in ("alone", "together"))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert (weight - theirs[name]).norm() <= 1e-4 * weight.norm(), name


def test_again_the_same_bytes_and_nothing_else_is_left(tasks: dict[str, Path], tmp_path: Path) -> None:
    folder = tasks["gpt_oss"]
    steps: list[tuple[int, int, float]] = []
    training = fine_tune_together(
        task_of(folder / "model"), 1, tmp_path, lambda step, total, loss: steps.append((step, total, loss))
    )
    assert steps == [(number, STEPS, loss) for number, loss in enumerate(training.losses, start=1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS]
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / name).read_bytes() == (folder / "together" / name).read_bytes()


def test_what_a_process_refuses_is_one_line(tasks: dict[str, Path], tmp_path: Path) -> None:
    task = task_of(tasks["gpt_oss"] / "model", dtype="float16")
    with pytest.raises(InputError, match=r"^sft: model\.dtype float16 is too narrow to fine-tune in; allowed are"):
        fine_tune_together(task, 1, tmp_path, lambda *_: None)
    assert list(tmp_path.iterdir()) == []


def test_the_command_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "16")
    folder = Path("/results/stages/fine_tune/.x.partial/.together-1")
    one, two = (re.sub(r"[^ ]*/python[^ ]*", "PYTHON", " ".join(command(folder, 8, nodes))) for nodes in (1, 2))
    torchrun = """sh -c trap "" USR1 USR2; exec "$0" "$@" PYTHON -m torch.distributed.run"""
    worker = "-m dsmoe.baselines.together /results/stages/fine_tune/.x.partial/.together-1"
    assert one == f"{torchrun} --nnodes=1 --nproc-per-node=8 --max-restarts=0 --standalone {worker}"
    assert re.sub(r":\d+", ":PORT", two) == (
        "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --overlap --mem=0 --cpu-bind=none --cpus-per-task=16 "
        f"--kill-on-bad-exit=1 {torchrun} --nnodes=2 --nproc-per-node=4 --max-restarts=0 "
        f"--rdzv-backend=c10d --rdzv-endpoint={platform.node()}:PORT --rdzv-id=.together-1 {worker}"
    )


def running(folder: Path) -> list[int]:
    """The processes that have to do with a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


@pytest.fixture
def waiting(tasks: dict[str, Path], tmp_path: Path) -> Iterator[int]:
    """A process that waits for processes that are in the middle of a long training."""
    task = task_of(tasks["gpt_oss"] / "model", epochs=10_000)
    begun = tmp_path.with_name(f"{tmp_path.name}-begun")
    process = os.fork()
    if not process:
        try:
            fine_tune_together(task, 1, tmp_path, lambda *_: begun.touch())
        finally:
            os._exit(3)
    wait_until(begun.exists, 4 * PATIENCE)
    assert len(running(tmp_path)) >= 3
    yield process
    for orphan in running(tmp_path):
        os.kill(orphan, signal.SIGKILL)


def test_nobody_outlives_a_killed_parent(waiting: int, tmp_path: Path) -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        for process in running(tmp_path):
            os.kill(process, number)
    time.sleep(1.0)
    assert len(running(tmp_path)) >= 3
    os.kill(waiting, signal.SIGKILL)
    os.waitpid(waiting, 0)
    wait_until(lambda: not running(tmp_path), PATIENCE)
    assert not (tmp_path / WEIGHTS).exists()
