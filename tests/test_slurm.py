"""Launching on a real Slurm: whatever happens to the jobs, the same command ends with the results of one process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from slurm_stub import submitted
from test_compare import BRIEF, made

from dsmoe.cli import main
from dsmoe.config import config_root
from dsmoe.launch.state import State
from dsmoe.launch.survey import Seen, survey

pytestmark = pytest.mark.slurm

SLURM = ("hydra/launcher=slurm", "cluster.time_minutes=60", "benchmark.limit=12")
WAIT = "hydra.launcher.wait=true"
SWEEP = ("compare", "-m", "steering.strength=0,1,4", "domain=chemistry,biology", *BRIEF)
ONE = ("compare", "domain=chemistry", "benchmark.non_target=[biology]", *BRIEF, "model.pretrain.steps=150")
PATIENCE = 240.0

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True, scope="session")
def _slurm() -> Iterator[None]:
    """A Slurm that answers; what is left in its queue of ours is cancelled."""
    try:
        subprocess.run(["sinfo"], capture_output=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"there is no running Slurm here: {error}")
    yield
    named = subprocess.run(["squeue", "--noheader", "--format=%A|%j"], capture_output=True, text=True, check=True)
    ours = {line.partition("|")[0] for line in named.stdout.splitlines() if "|dsmoe-" in line}
    if ours:
        subprocess.run(["scancel", *ours], check=True)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`dsmoe` with a folder of results: status, standard output and standard error."""

    def call(results: Path, *arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([*arguments, f"paths.results={results}"])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def outcomes(results: Path) -> dict[str, Any]:
    """All that every cell found, by its name."""
    found = {}
    for path in results.glob("default/*/results.json"):
        content = json.loads(path.read_text())
        content["provenance"].pop("git_commit")  # whoever works in this checkout may commit meanwhile
        found[path.parent.name] = content, parquet.read_table(path.with_name("samples.parquet")).to_pylist()
    return found


def until(what: str, true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"it never came about that {what}"
        time.sleep(0.2)


def settle(results: Path) -> dict[str, Seen]:
    until("all are settled", lambda: all(s.condition not in ("queued", "running") for s in seen(results).values()))
    return seen(results)


def seen(results: Path) -> dict[str, Seen]:
    return survey(results, "default")


def chunk(results: Path, number: int = -1) -> list[list[str]]:
    """The cells of every job of one submission."""
    return [job for array in submitted(results / "default")[number]["arrays"] for job in array["jobs"]]


def is_at(results: Path, what: str) -> Callable[[], bool]:
    """Whether the one cell's job is at a stage, or past it."""

    def true() -> bool:
        (one,) = seen(results).values()
        assert one.condition in ("queued", "running"), one
        return one.doing.startswith(what)

    return true


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the sweep and of the one cell, in process and undisturbed."""
    results = tmp_path_factory.mktemp("calm")
    assert main([*SWEEP, "benchmark.limit=12", f"paths.results={results}"]) == 0
    assert main([*ONE, "benchmark.limit=12", f"paths.results={results}"]) == 0
    return results


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the sweep through arrays."""
    results = tmp_path_factory.mktemp("swept") / "results of arrays"
    assert main([*SWEEP, *SLURM, "cluster.max_array_size=4", WAIT, f"paths.results={results}"]) == 0
    return results


def test_a_sweep_through_arrays_finds_what_one_process_finds(swept: Path, calm: Path) -> None:
    assert [len(array["jobs"]) for array in submitted(swept / "default")[0]["arrays"]] == [4, 2]
    here = outcomes(calm)
    assert len(outcomes(swept)) == 6
    assert {cell: here[cell] for cell in outcomes(swept)} == outcomes(swept)


def test_what_cells_share_was_made_once_though_jobs_ran_side_by_side(swept: Path) -> None:
    assert {stage: made(swept, stage) for stage in ("pretrain", "discover", "fine_tune")} == {
        "pretrain": 1, "discover": 2, "fine_tune": 2,
    }  # fmt: skip
    assert made(swept, "evaluate") == 6 * (1 + 2 + 6 + 6) + 6  # and a second random draw on each cell's target
    reused = "".join(path.read_text() for path in swept.glob("default/.jobs/*/*/*_log.out"))
    assert reused.count("pretrain: the embedded model: ") == 1
    assert reused.count("evaluate: base on chemistry: ") == 1
    assert [path for path in swept.rglob(".*") if path.name.endswith(".partial")] == []


def test_the_same_command_again_submits_nothing(swept: Path, run: Run) -> None:
    before = submitted(swept / "default")
    status, out, err = run(swept, *SWEEP, *SLURM, WAIT)
    assert (status, out.count("results: ")) == (0, 6)
    assert "not submitted: 6 finished\n" in err
    assert submitted(swept / "default") == before
    assert run(swept, "status")[0] == 0


def test_what_is_gone_or_fails_is_submitted_and_only_that(swept: Path, calm: Path, run: Run) -> None:
    """In one job: the cell that fails is the first of it."""
    cells = [cell for job in chunk(swept, 0) for cell in job]
    for cell in cells[:3]:
        shutil.rmtree(swept / "default" / cell)
    broken = swept / "default" / cells[0]
    broken.mkdir()
    (broken / "half").touch()
    status, out, err = run(swept, *SWEEP, *SLURM, WAIT, "cluster.cells_per_job=3")
    assert (status, out.count("results: ")) == (1, 5)
    assert chunk(swept) == [cells[:3]]
    assert "submitted: 3 cells in job " in err
    assert f"failed: {cells[0]}  steering.strength=0 domain=chemistry" in err
    assert f"{cells[0]}: is there but not whole: it has no status.json" in err
    status, out, _ = run(swept, "status")
    assert status == 1
    assert out.startswith(f"{swept / 'default'}: 5 finished, 1 failed\n")
    assert "again, alone: dsmoe compare steering.strength=0 domain=chemistry" in out
    shutil.rmtree(broken)
    assert run(swept, *SWEEP, *SLURM, WAIT)[0] == 0
    assert chunk(swept) == [cells[:1]]
    here = outcomes(calm)
    assert {cell: here[cell] for cell in outcomes(swept)} == outcomes(swept)


def requeue(one: Seen, pid: int) -> None:
    subprocess.run(["scontrol", "requeue", one.job], check=True)


def preempt(one: Seen, pid: int) -> None:
    subprocess.run(["scancel", "--signal=USR2", one.job], check=True)


def kill(one: Seen, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def cancel(one: Seen, pid: int) -> None:
    subprocess.run(["scancel", one.job], check=True)


def kill_all_of_it(one: Seen, pid: int) -> None:
    subprocess.run(["scancel", "--signal=KILL", "--full", one.job], check=True)


DISTURBANCES = {
    "requeue": (requeue, "pretrain", "finished", ""),
    "preempt": (preempt, "evaluate: sft", "finished", ""),
    "kill": (kill, "fine-tune", "failed", "killed, exit status 137: memory ran out, unless"),
    "cancel": (cancel, "pretrain", "lost", "killed without a trace"),
    "silent": (kill_all_of_it, "pretrain", "lost", "killed without a trace"),
}


def test_disturbed_jobs_end_with_the_same_results(tmp_path: Path, calm: Path, run: Run) -> None:
    """Each disturbance hits a job of its own in the middle of a stage; they run side by side.

    A cancelled job has some seconds to stop by itself, so it must not be near its end.
    """
    left = dict(DISTURBANCES)
    for name in left:
        assert run(tmp_path / name, *ONE, *SLURM)[0] == 0
    end = time.monotonic() + PATIENCE
    while left:
        assert time.monotonic() < end, f"never came where they were to be disturbed: {', '.join(left)}"
        for name, (disturb, what, _, _) in list(left.items()):
            if is_at(tmp_path / name, what)():
                (one,) = seen(tmp_path / name).values()
                assert one.submission is not None
                disturb(one, State.read(one.submission.folder, one.cell).pid)
                del left[name]
        time.sleep(0.05)
    here = outcomes(calm)
    for name, (_, _, condition, error) in DISTURBANCES.items():
        (one,) = settle(tmp_path / name).values()
        assert (name, one.condition) == (name, condition)
        assert one.error.startswith(error)  # Slurm's own word may follow
        assert one.requeued == (1 if condition == "finished" else 0)
        status, out, _ = run(tmp_path / name, "status")
        assert (status, f"{condition}: {one.cell}" in out) == ((0, False) if condition == "finished" else (1, True))
        assert run(tmp_path / name, *ONE, *SLURM)[0] == 0
    for name, (_, _, condition, _) in DISTURBANCES.items():
        (cell,) = seen(tmp_path / name)
        assert run(tmp_path / name, *ONE, *SLURM, WAIT)[0] == 0
        assert len(submitted(tmp_path / name / "default")) == (1 if condition == "finished" else 2)
        assert outcomes(tmp_path / name) == {cell: here[cell]}


def test_processes_that_fine_tune_end_with_a_preempted_job(tmp_path: Path, run: Run) -> None:
    """Then they begin anew, and do what one process does."""
    spread = (*ONE, "methods=[sft]", "sft.processes=2", *SLURM)
    assert run(tmp_path, *spread)[0] == 0
    until("it fine-tunes", is_at(tmp_path, "fine-tune"))
    (one,) = seen(tmp_path).values()
    assert one.submission is not None
    preempt(one, State.read(one.submission.folder, one.cell).pid)
    (one,) = settle(tmp_path).values()
    assert (one.condition, one.requeued, one.error) == ("finished", 1, "")
    assert run(tmp_path, *ONE, "methods=[sft]", "benchmark.limit=12")[0] == 0
    two = outcomes(tmp_path)
    together, alone = (content["provenance"]["fine_tuning"]["losses"] for content, _ in two.values())
    assert together == pytest.approx(alone, rel=1e-4)
    assert len(two) == 2


def test_what_runs_is_what_was_submitted(tmp_path: Path) -> None:
    """A package of its own, whose YAML and then whose code is edited while jobs wait in the queue."""
    package = tmp_path / "package"
    for folder in ("dsmoe", "conf", "sweeps"):
        shutil.copytree(config_root() / folder, package / folder)
    environment = {**os.environ, "PYTHONPATH": str(package)}
    brief = (*BRIEF, "domain=chemistry", "methods=[base]", "benchmark.non_target=[]", "+cluster.sbatch.hold=true")

    def submit(study: str) -> str:
        command = [sys.executable, "-P", "-m", "dsmoe", "compare", *brief, *SLURM, f"study={study}"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (one,) = submitted(tmp_path / "results" / study)
        return str(one["arrays"][0]["id"])

    def end_of(job: str, study: str) -> Seen:
        subprocess.run(["scontrol", "release", job], check=True)

        def settled() -> bool:
            (one,) = survey(tmp_path / "results", study).values()
            return one.condition not in ("queued", "running")

        until(f"{study} is settled", settled)
        (one,) = survey(tmp_path / "results", study).values()
        return one

    first, second = submit("first"), submit("second")
    defaults = package / "conf" / "config.yaml"
    defaults.write_text(defaults.read_text().replace("seed: 0", "seed: 5"))
    one = end_of(first, "first")
    assert one.condition == "finished", one
    results = json.loads((tmp_path / "results" / "first" / one.cell / "results.json").read_text())
    assert results["config"]["seed"] == 0
    with (package / "dsmoe" / "cell.py").open("a") as file:
        file.write("# edited\n")
    two = end_of(second, "second")
    assert (two.condition, two.cause) == ("failed", "input")
    assert "the code changed since it was submitted: code " in two.error
