"""`dsmoe doctor`: troubles that are really there are found, each with its mend, and nothing holds it up."""

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
import torch

from dsmoe.doctor.finding import Finding, ask, bounded, ok, trouble, warning
from dsmoe.doctor.folder import held_folder, seen

REPOSITORY = Path(__file__).parents[1]
FAKE_TORCH = """
__version__ = "9.9"
class version: cuda = None; hip = None
class cuda: device_count = staticmethod(lambda: 0)
get_num_threads = lambda: 1
"""
"""Imported in place of torch by the program that says what torch sees: it takes no seconds."""

Doctor = Callable[..., tuple[int, str]]


def programs(folder: Path, **scripts: str) -> Path:
    """A folder with executable shell scripts, for PATH."""
    folder.mkdir(exist_ok=True)
    for name, script in scripts.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return folder


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A folder of modules that come before all others."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "torch.py").write_text(FAKE_TORCH)
    return folder


@pytest.fixture
def doctor(tmp_path: Path, modules: Path) -> Iterator[Doctor]:
    """`dsmoe doctor` in an empty folder, on a machine without Slurm and Hub: status and report."""
    here = tmp_path / "here"
    here.mkdir()

    def call(*overrides: str, **environment: str) -> tuple[int, str]:
        plain = {
            "PATH": str(programs(tmp_path / "programs")),
            "PYTHONPATH": os.pathsep.join([str(modules), str(REPOSITORY)]),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "hf"),
            "HOME": str(tmp_path),
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        done = subprocess.run(
            [sys.executable, "-m", "dsmoe", "doctor", *overrides],
            cwd=here,
            env={**others, **plain, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.stderr == ""
        assert re.fullmatch(r"((ok      |warning |trouble ) \S.*\n(         \S.*\n)?)+", done.stdout), done.stdout
        assert done.returncode == int("\ntrouble " in f"\n{done.stdout}")
        return done.returncode, done.stdout

    yield call
    assert list(here.iterdir()) == []


def found(report: str, level: str, *fragments: str) -> str:
    """The line of this level that says all this, with its mend."""
    lines = re.findall(rf"^{level} .*\n(?:         .*\n)?", report, re.MULTILINE)
    matching = [line for line in lines if all(fragment in line for fragment in fragments)]
    assert len(matching) == 1, report
    return str(matching[0])


def test_a_machine_where_all_is_well(doctor: Doctor, modules: Path) -> None:
    (modules / "torch.py").unlink()
    status, report = doctor()
    assert (status, "trouble" in report) == (0, False)
    found(report, "ok", "Python 3.")
    found(report, "ok", "packages, all in the ranges", f"torch {torch.__version__}")
    found(report, "ok", f"torch {torch.__version__} with")
    found(report, "ok", "paths.results", "can be written and locked")
    found(report, "ok", "no Slurm: sbatch is not on PATH")
    found(report, "ok", "HF_HUB_OFFLINE is set")
    if not torch.cuda.is_available():
        found(report, "ok", "no GPU")


def test_bad_input_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dsmoe", "doctor", "paths.reslts=x"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dsmoe: paths.reslts: is no key of the config; did you mean paths.results?")


def test_an_old_package(doctor: Doctor, modules: Path) -> None:
    folder = modules / "trl-0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: trl\nVersion: 0.1\n")
    _, report = doctor()
    line = found(report, "trouble", "trl 0.1 is not <2,>=1.16")
    assert line.endswith("\n         python -m pip install 'trl<2,>=1.16'\n")
    assert "all in the ranges" not in report


def test_a_torch_that_cannot_be_imported(doctor: Doctor, modules: Path) -> None:
    (modules / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    found(doctor()[1], "trouble", "torch does not work", "libcudart.so.13", "pip install")


def test_a_torch_that_ends_its_process(doctor: Doctor, modules: Path) -> None:
    (modules / "torch.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    found(doctor()[1], "trouble", "torch does not work", "exit status -11")


def test_more_threads_than_processors(doctor: Doctor) -> None:
    status, report = doctor("model.threads=4096")
    processors = len(os.sched_getaffinity(0))
    assert status == 0
    found(report, "warning", f"4096 of {processors} processors", f"model.threads={processors}\n")


def test_gpus_that_torch_does_not_see(doctor: Doctor, tmp_path: Path) -> None:
    path = str(programs(tmp_path / "nvidia", nvidia_smi="echo 550.54; echo 550.54"))
    found(doctor(PATH=path)[1], "trouble", "lists GPUs (2), but torch 9.9 sees none", "built without CUDA")
    found(doctor(PATH=path, CUDA_VISIBLE_DEVICES="")[1], "trouble", "sees none", "CUDA_VISIBLE_DEVICES is ''")


def test_a_driver_that_fails(doctor: Doctor, tmp_path: Path) -> None:
    path = str(programs(tmp_path / "nvidia", nvidia_smi="echo 'Driver/library version mismatch' >&2; exit 18"))
    found(doctor(PATH=path)[1], "warning", "no GPU", "version mismatch", "driver")
    found(doctor("model.device=cuda", PATH=path)[1], "trouble", "model.device is cuda", "model.device=auto")


def test_results_that_cannot_be_written(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found(doctor(f"paths.results={tmp_path / 'file' / 'results'}")[1], "trouble", "paths.results", "Not a directory")
    report = doctor("paths.results=/proc/results")[1]
    found(report, "trouble", "0.0 GB are free at /proc", "paths.results=FOLDER")
    found(report, "trouble", "/proc/results cannot be written", "paths.results=FOLDER")


def test_results_in_a_folder_of_somebody_else(doctor: Doctor, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "theirs").mkdir(mode=0o555)
    found(doctor(f"paths.results={tmp_path / 'theirs'}")[1], "trouble", "theirs cannot be written", "Permission denied")


def test_results_need_not_be_there_yet(doctor: Doctor, tmp_path: Path) -> None:
    found(doctor(f"paths.results={tmp_path}/a/b/c")[1], "ok", f"{tmp_path} can be written and locked")
    assert not (tmp_path / "a").exists()


def probe(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "dsmoe.doctor.probe", folder, "answer"], check=True, cwd=REPOSITORY)
    return folder / "answer"


def test_locks_that_processes_do_not_share_are_trouble(tmp_path: Path) -> None:
    with held_folder(tmp_path) as folder:
        assert seen(probe(folder), "well") == ok("well")
    found_free = seen(probe(tmp_path), "well")  # Nobody holds the lock: so it looks where locks stay on their node.
    assert (found_free.level, "takes a lock that is held here" in found_free.text) == ("trouble", True)


def test_other_versions_on_a_node_are_named(tmp_path: Path) -> None:
    with held_folder(tmp_path) as folder:
        path = probe(folder)
        answer = json.loads(path.read_text())
        answer["versions"]["torch"] = "1.13"
        path.write_text(json.dumps(answer))
        finding = seen(path, "well")
    assert (finding.level, "torch 1.13" in finding.text) == ("warning", True)


def test_a_model_that_cannot_be_had_offline(doctor: Doctor, tmp_path: Path) -> None:
    report = doctor("model=olmoe")[1]
    found(report, "trouble", "allenai/OLMoE-1B-7B-0924 is not in the cache", "hf download allenai/OLMoE-1B-7B-0924\n")
    folder = tmp_path / "hf" / "hub" / "models--allenai--OLMoE-1B-7B-0924"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee")
    (folder / "snapshots" / "c0ffee").mkdir(parents=True)
    (folder / "snapshots" / "c0ffee" / "config.json").touch()
    found(doctor("model=olmoe")[1], "trouble", "is not in the cache")  # It has no weights.
    (folder / "snapshots" / "c0ffee" / "model.safetensors").touch()
    status, report = doctor("model=olmoe")
    assert status == 0
    found(report, "ok", "allenai/OLMoE-1B-7B-0924 is in the cache")
    found(doctor("model=olmoe", "model.path=./nowhere")[1], "trouble", "./nowhere is no folder here")


def test_a_hub_that_says_nothing_is_not_waited_for(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        status, report = doctor(HF_HUB_OFFLINE="0", HF_ENDPOINT=endpoint)
        assert time.monotonic() - began < 30
    assert status == 0
    found(report, "warning", f"{endpoint} cannot be reached: timed out", "HF_HUB_OFFLINE=1")
    report = doctor("model=olmoe", HF_HUB_OFFLINE="0", HF_ENDPOINT=endpoint)[1]  # Nobody listens any more.
    found(report, "warning", f"{endpoint} cannot be reached: Connection refused")
    found(report, "trouble", "allenai/OLMoE-1B-7B-0924 is not in the cache")


def test_a_hub_that_answers(doctor: Doctor) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        status, report = doctor("model=olmoe", HF_HUB_OFFLINE="0", HF_ENDPOINT=endpoint)
        server.shutdown()
    assert status == 0
    found(report, "ok", f"{endpoint} answers, with status 404")
    found(report, "ok", "comes from the Hub on first use")


def test_what_wandb_would_do_and_whose_key_it_has(doctor: Doctor, tmp_path: Path) -> None:
    report = doctor()[1]
    found(report, "ok", "wandb 0.", "tracking.mode=offline; runs lie in results/STUDY/.wandb")
    found(report, "ok", "no API key for https://api.wandb.ai", "wandb login, or set WANDB_API_KEY")
    key = "5ecret" * 8
    status, report = doctor("tracking.mode=online", WANDB_API_KEY=key, WANDB_BASE_URL="https://wandb.example")
    found(report, "ok", "dsmoe publish would go to https://wandb.example, with the key of WANDB_API_KEY")
    assert (status, key in report) == (0, False)
    found(doctor("tracking.mode=online")[1], "warning", "no API key for https://api.wandb.ai", "wandb login")
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {key}\n")
    report = doctor(WANDB_MODE="disabled")[1]
    found(report, "ok", "tracking.mode=disabled\n")
    found(report, "ok", "dsmoe publish would go to", f"with the key of {tmp_path / '.netrc'}")
    assert key not in report


def test_a_slurm_that_does_not_answer_is_not_waited_for(doctor: Doctor, tmp_path: Path) -> None:
    """Nor is a child that it leaves behind, which still holds the pipe."""
    path = programs(tmp_path / "slurm", sbatch="exit 1", sinfo="/bin/sleep 600 & /bin/sleep 600")
    began = time.monotonic()
    found(doctor(PATH=str(path))[1], "trouble", "Slurm does not answer: sinfo: no answer within 10 s", "SLURM_CONF")
    assert time.monotonic() - began < 40


def test_a_check_that_hangs_is_given_up() -> None:
    late, forever = trouble("late", "mend"), Event()

    def check() -> Iterator[Finding]:
        yield ok("first")
        forever.wait()

    assert list(bounded(check, 0.2, late)) == [ok("first"), late]
    assert list(bounded(lambda: [ok("all")], 5, late)) == [ok("all")]
    with pytest.raises(ZeroDivisionError):
        list(bounded(lambda: [ok(str(1 // 0))], 5, late))
    forever.set()


def test_a_program_that_is_not_there() -> None:
    assert ask("/nowhere/at-all").failure == "/nowhere/at-all: No such file or directory"
    assert warning("a", "b").mend == "b"


@pytest.mark.slurm
def test_a_cluster_where_all_is_well(doctor: Doctor) -> None:
    status, report = doctor(PATH=os.environ["PATH"])
    assert status == 0
    found(report, "ok", "Slurm's partitions: dev*: 1 nodes of 4 processors, gpu:2")
    if os.environ.get("DEV_CLUSTER_ACCOUNTING") == "0":
        found(report, "warning", "no accounting (AccountingStorageType=accounting_storage/none)")
    else:
        found(report, "ok", "accounting works")
    found(report, "ok", "job arrays of up to 1000 tasks")
    found(report, "ok", "lose their node are requeued (JobRequeue=1, PreemptType=preempt/none")
    found(report, "ok", "a job sees paths.results")


@pytest.mark.slurm
def test_a_job_that_is_refused(doctor: Doctor) -> None:
    report = doctor(PATH=os.environ["PATH"], SBATCH_PARTITION="nowhere")[1]
    found(report, "trouble", "a job is refused", "Invalid partition", "SBATCH_PARTITION")


@pytest.mark.slurm
def test_a_node_without_what_dsmoe_needs(doctor: Doctor, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "filelock.py").write_text("raise ImportError('not on this node')")
    report = doctor(PATH=os.environ["PATH"], SBATCH_EXPORT=f"PYTHONPATH={broken}:{REPOSITORY}")[1]
    found(report, "trouble", "a job ended and left nothing", "ImportError: not on this node", "file system")


@pytest.mark.slurm
def test_no_results_folder_no_job(doctor: Doctor) -> None:
    report = doctor("paths.results=/proc/results", PATH=os.environ["PATH"])[1]
    assert "a job" not in report


@pytest.mark.slurm
def test_a_busy_cluster_is_not_waited_for(doctor: Doctor, tmp_path: Path) -> None:
    sent = ["sbatch", "--parsable", "--exclusive", f"--output={tmp_path}/log", "--wrap", "sleep 300"]
    job = subprocess.run(sent, check=True, capture_output=True, text=True).stdout.strip()
    try:
        status, report = doctor(PATH=os.environ["PATH"])
        queue = subprocess.run(["squeue", "--noheader", "--name=dsmoe-doctor"], check=True, capture_output=True)
    finally:
        subprocess.run(["scancel", job], check=True)
    assert status == 0
    found(report, "warning", "a job is still PENDING", "is cancelled")
    assert queue.stdout == b""
