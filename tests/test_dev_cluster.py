"""The Slurm of one node that tests run on: `make test-slurm`. It is as real as its jobs."""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm

CLUSTER = Path(__file__).parents[1] / "slurm" / "dev-cluster"
MEET = "echo $SLURM_ARRAY_TASK_ID >>met; for i in $(seq 100); do [ $(wc -l <met) = 2 ] && exit; sleep 0.1; done; exit 1"
"""What a task of an array of two does: it succeeds if the other one runs while it does."""


def slurm(*command: str, status: int = 0) -> str:
    """What a command answers, or how it complains where it is to fail."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == status, (done.stdout, done.stderr)
    # srun that had to wait says so on standard error.
    return done.stderr if status else done.stdout


def submit(script: str, *options: str) -> str:
    return slurm("sbatch", "--parsable", "--output=log-%a", *options, "--wrap", script).strip()


def eventually(what: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, slurm("squeue", "--states=all")
        time.sleep(0.2)


def state(job: str) -> str:
    return slurm("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where jobs run, and what they write to."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sinfo_knows_the_node() -> None:
    assert re.fullmatch(r"dev\* localhost 4 gpu:2 (idle|mixed)\n", slurm("sinfo", "-h", "-N", "-o", "%P %N %c %G %T"))


def test_a_job_runs_here(folder: Path) -> None:
    assert slurm("sbatch", "--wait", "--output=log", "--wrap", "pwd").startswith("Submitted batch job")
    assert (folder / "log").read_text() == f"{folder}\n"


def test_a_job_that_fails_says_so() -> None:
    slurm("sbatch", "--wait", "--output=log", "--wrap", "exit 3", status=3)


def test_accounting_remembers_how_jobs_ended() -> None:
    if os.environ.get("DEV_CLUSTER_ACCOUNTING") == "0":
        pytest.skip("the cluster runs without accounting")
    fine, failed, killed = submit("true"), submit("exit 3"), submit("sleep 60")
    eventually(lambda: state(killed) == "RUNNING")
    slurm("scancel", killed)

    def outcomes() -> list[list[str]]:
        lines = slurm("sacct", "-nXP", f"--jobs={fine},{failed},{killed}", "--format=State,ExitCode").splitlines()
        return [line.split("|") for line in lines]

    eventually(lambda: [state.split()[0] for state, _ in outcomes()] == ["COMPLETED", "FAILED", "CANCELLED"])
    assert outcomes()[1] == ["FAILED", "3:0"]


@pytest.mark.parametrize(("count", "devices"), [(1, {"0", "1"}), (2, {"0,1"})])
def test_gpus_are_handed_out(count: int, devices: set[str]) -> None:
    said = slurm("srun", f"--gpus-per-node={count}", "sh", "-c", "echo ${CUDA_VISIBLE_DEVICES}")
    assert said.strip() in devices


def test_gpus_are_waited_for() -> None:
    submit("sleep 2", "--gpus-per-node=2")
    assert slurm("srun", "--gpus-per-node=2", "sh", "-c", "echo ${CUDA_VISIBLE_DEVICES}") == "0,1\n"


def test_jobs_side_by_side_do_not_share_a_gpu(folder: Path) -> None:
    script = f"echo $CUDA_VISIBLE_DEVICES >gpu-$SLURM_ARRAY_TASK_ID; {MEET}"
    slurm("sbatch", "--wait", "--array=0-1", "--gpus-per-node=1", "--output=log-%a", "--wrap", script)
    assert {(folder / f"gpu-{task}").read_text() for task in (0, 1)} == {"0\n", "1\n"}


def test_an_array_runs_side_by_side(folder: Path) -> None:
    slurm("sbatch", "--wait", "--array=0-1", "--output=log-%a", "--wrap", MEET)
    assert sorted((folder / "met").read_text().split()) == ["0", "1"]


@pytest.mark.parametrize("request_", ["--gpus-per-node=3", "--cpus-per-task=5", "--nodes=2", "--mem=9T"])
def test_what_can_never_run_is_refused_at_once(request_: str) -> None:
    assert "submission failed" in slurm("sbatch", request_, "--wrap", "true", status=1)


def test_a_requeued_job_is_back_within_seconds(folder: Path) -> None:
    job = submit("echo $SLURM_RESTART_COUNT >>runs; sleep 60", "--requeue")
    runs = folder / "runs"
    eventually(lambda: runs.exists() and runs.read_text() == "\n")
    slurm("scontrol", "requeue", job)
    eventually(lambda: runs.read_text() == "\n1\n")
    slurm("scancel", job)


def test_a_signal_reaches_the_job(folder: Path) -> None:
    job = submit("trap 'echo asked to stop; exit 0' USR2; touch ready; while :; do sleep 0.1; done")
    eventually((folder / "ready").exists)
    slurm("scancel", "--signal=USR2", "--batch", job)
    eventually(lambda: state(job) == "COMPLETED")


@pytest.fixture
def other() -> Iterator[dict[str, str]]:
    """The environment of a second cluster, not up: its folder's name is short, as sockets want it."""
    root = tempfile.mkdtemp(prefix="dsmoe-")
    settings = {"DEV_CLUSTER_ROOT": root, "DEV_CLUSTER_PORT": "27817", "DEV_CLUSTER_ACCOUNTING": "0"}
    environment = {key: value for key, value in os.environ.items() if key != "SLURM_CONF"} | settings
    yield environment
    subprocess.run([CLUSTER, "clean"], env=environment, check=True, capture_output=True)
    assert not Path(root).exists()


def dev_cluster(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CLUSTER, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_run_ends_as_its_command_does_and_stops_the_cluster(other: dict[str, str]) -> None:
    done = dev_cluster(other, "run", "sh", "-c", "srun hostname && exit 7")
    assert (done.returncode, len(done.stdout.splitlines())) == (7, 1)
    assert dev_cluster(other, "status").returncode == 3
    assert dev_cluster(other, "stop").returncode == 0


def test_starting_again_changes_nothing(other: dict[str, str]) -> None:
    assert dev_cluster(other, "start").returncode == 0
    before = dev_cluster(other, "status").stdout.splitlines()[:3]
    assert dev_cluster(other, "start").returncode == 0
    assert dev_cluster(other, "status").stdout.splitlines()[:3] == before


@pytest.mark.parametrize("killed", [("slurmd",), ("slurmctld",), ("munged", "slurmctld", "slurmd")])
def test_a_killed_cluster_comes_back_without_its_jobs(killed: tuple[str, ...], other: dict[str, str]) -> None:
    run = Path(other["DEV_CLUSTER_ROOT"]) / "run"
    assert dev_cluster(other, "start").returncode == 0
    other["SLURM_CONF"] = f"{other['DEV_CLUSTER_ROOT']}/etc/slurm.conf"
    subprocess.run(["sbatch", "--output=log", "--wrap", "echo $$ >pid; sleep 600"], env=other, check=True)
    eventually(lambda: Path("pid").exists() and Path("pid").read_text().endswith("\n"))
    for daemon in killed:
        os.kill(int((run / f"{daemon}.pid").read_text()), signal.SIGKILL)
        (run / f"{daemon}.pid").write_text(f"{os.getpid()}\n")  # a number that somebody else has by now
    done = dev_cluster(other, "start")
    assert (done.returncode, "is up after" in done.stderr) == (0, True)
    eventually(lambda: not Path(f"/proc/{Path('pid').read_text().strip()}/cwd").exists())
    assert subprocess.run(["squeue", "--noheader"], env=other, check=True, capture_output=True).stdout == b""
    subprocess.run(["srun", "true"], env=other, check=True, timeout=60)


def runs_on(environment: dict[str, str], pid: Path) -> int:
    """A job of the other cluster that keeps on running, its process, once it runs."""
    script = f"echo ${{SLURM_RESTART_COUNT:-0}} >>runs; echo $$ >{pid}; sleep 600"
    subprocess.run(["sbatch", "--requeue", "--output=log", "--wrap", script], env=environment, check=True)
    eventually(lambda: pid.exists() and pid.read_text().endswith("\n"))
    return int(pid.read_text())


def test_jobs_go_on_while_slurmd_crashes_and_begin_anew_after_a_blackout(other: dict[str, str]) -> None:
    assert dev_cluster(other, "crash").returncode == 1
    assert dev_cluster(other, "start").returncode == 0
    other["SLURM_CONF"] = f"{other['DEV_CLUSTER_ROOT']}/etc/slurm.conf"
    pid = runs_on(other, Path("pid"))
    slurmd = dev_cluster(other, "status").stdout.splitlines()[2]
    assert dev_cluster(other, "crash").returncode == 0
    assert dev_cluster(other, "status").stdout.splitlines()[2] != slurmd
    assert Path(f"/proc/{pid}/cwd").exists()
    assert dev_cluster(other, "blackout").returncode == 0
    assert not Path(f"/proc/{pid}/cwd").exists()
    eventually(lambda: Path("runs").read_text() == "0\n1\n")


@pytest.mark.parametrize(
    ("arguments", "settings", "fragment"),
    [
        (("frobnicate",), {}, "'frobnicate' is none of install, start"),
        (("run",), {}, "run: wants a command"),
        (("start",), {"DEV_CLUSTER_PORT": "eighty"}, "DEV_CLUSTER_PORT: 'eighty' is not a number"),
        (("start",), {"DEV_CLUSTER_ROOT": "/tmp/a folder"}, "DEV_CLUSTER_ROOT: /tmp/a folder has characters"),
        (("start",), {"DEV_CLUSTER_GPUS": "5"}, "DEV_CLUSTER_GPUS: '5'"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], settings: dict[str, str], fragment: str) -> None:
    done = dev_cluster({**os.environ, **settings}, *arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert fragment in done.stderr
