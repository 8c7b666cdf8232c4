"""Launching without a Slurm: what is submitted and how, what a job does, and what is made of what it leaves."""

import json
import os
import pickletools
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from slurm_stub import Stub, submitted
from submitit.core.utils import DelayedSubmission
from test_disk import files_of_at_most

from dsmoe import InputError
from dsmoe.cell import Cell
from dsmoe.cli import main
from dsmoe.compose import compose_cells
from dsmoe.config import Config
from dsmoe.errors import SteeringError
from dsmoe.jobs import Work, run_frozen
from dsmoe.launch.frozen import Frozen
from dsmoe.launch.job import TIRED, Job, ran_out
from dsmoe.launch.queue import HELD
from dsmoe.launch.slurm import WITH_USR2_BLOCKED, Resources, executor_of
from dsmoe.launch.state import State, cause_of, now
from dsmoe.launch.submission import Array, Submission, new_folder
from dsmoe.launch.survey import survey
from dsmoe.launch.wait import wait
from dsmoe.models.fit import job_node
from dsmoe.progress import Reporter

SLURM = "hydra/launcher=slurm"
SWEEP = ("compare", "-m", "steering.strength=0,1,4", "domain=chemistry,biology", SLURM)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    return Stub(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`dsmoe` in an empty folder: status, standard output and standard error."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return call


def config_of(*overrides: str) -> Config:
    (one,) = compose_cells(overrides)
    return one.config


# What is submitted.


def test_a_sweep_becomes_one_array_and_is_not_submitted_twice(slurm: Stub, run: Run) -> None:
    status, out, err = run(*SWEEP)
    assert (status, out) == (0, "")
    assert "submitted: 6 cells in 6 jobs, 101_[0-5]\n" in err
    assert "look: dsmoe status study=default paths.results=results\n" in err
    assert "#SBATCH --array=0-5%6\n" in slurm.scripts[101]
    (one,) = submitted(Path("results/default"))
    (array,) = one["arrays"]
    cells = [cell for job in array["jobs"] for cell in job]
    assert [one["overrides"][cell][:2] for cell in cells] == [
        [f"steering.strength={strength}", f"domain={domain}"]
        for strength in "014"
        for domain in ("chemistry", "biology")
    ]
    (place,) = Path("results/default/.jobs").glob(f"*/{cells[0]}.json")
    assert Frozen.read(place.parent, cells[0]).sweep == ("domain", "steering.strength")
    slurm.queue(*((array["name"], index, "PENDING") for index in range(6)))
    _, _, err = run(*SWEEP)
    assert "not submitted: 6 queued\n" in err
    assert list(slurm.scripts) == [101]


def test_cells_that_are_finished_or_run_are_left_alone_and_others_are_submitted(slurm: Stub, run: Run) -> None:
    run(*SWEEP)
    (one,) = submitted(Path("results/default"))
    (array,) = one["arrays"]
    finished, failed, lost, running, *_ = cells = [cell for (cell,) in array["jobs"]]
    (folder,) = Path("results/default/.jobs").glob("2*")
    Path("results/default", finished).mkdir()
    Path("results/default", finished, "status.json").write_text("{}")
    State("failed", now(), error="no").write(folder, failed)
    State("running", now()).write(folder, lost)
    State("running", now()).write(folder, running)
    slurm.queue(*((array["name"], index, "RUNNING" if index == 3 else "PENDING") for index in (3, 4, 5)))
    _, _, err = run(*SWEEP)
    assert "not submitted: 1 finished, 1 running, 2 queued\n" in err
    assert "submitted: 2 cells in 2 jobs, 102_[0-1]\n" in err
    assert submitted(Path("results/default"))[1]["arrays"][0]["jobs"] == [[failed], [lost]]
    assert set(cells) == set(survey(Path("results"), "default"))


def test_arrays_are_cut_and_cells_share_jobs(slurm: Stub, run: Run) -> None:
    run(*SWEEP, "cluster.max_array_size=2", "cluster.cells_per_job=2", "cluster.max_parallel=1")
    (one,) = submitted(Path("results/default"))
    assert [[len(job) for job in array["jobs"]] for array in one["arrays"]] == [[2, 2], [2]]
    assert [array["id"] for array in one["arrays"]] == ["101", "102"]
    assert "#SBATCH --array=0-1%1\n" in slurm.scripts[101]
    assert "--array" not in slurm.scripts[102]


def test_cells_of_other_resources_or_models_share_nothing(slurm: Stub, run: Run) -> None:
    more = ("cluster.memory_gb=8,16", "model.dtype=float32,bfloat16", "cluster.cells_per_job=9", "seed=0,1")
    run("compare", "-m", SLURM, "methods=[base]", *more)
    (one,) = submitted(Path("results/default"))
    # The cluster is in no cell's name: what is asked for twice is submitted once, as it was asked for last.
    assert [len(job) for array in one["arrays"] for job in array["jobs"]] == [2, 2]
    assert all("#SBATCH --mem=15259M\n" in script for script in slurm.scripts.values())


def test_a_model_gets_no_more_gpus_than_it_needs(slurm: Stub, run: Run) -> None:
    cluster = ("cluster.gpus=4", "cluster.gpu_memory_gb=80", "cluster.cpus=3")
    run("compare", "-m", SLURM, "methods=[base],[base,sft]", *cluster)
    scripts = slurm.scripts.values()
    assert {re.findall(r"--gpus-per-node=(\d)", script)[0] for script in scripts} == {"1", "4"}
    assert all("#SBATCH --cpus-per-task=3\n" in script for script in scripts)


def test_an_engine_gets_a_gpu_for_each_part_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though fewer would hold the weights."""
    monkeypatch.setattr("dsmoe.cell.engine_versions", lambda python: {})
    cluster = ("cluster.gpus=4", "cluster.gpu_memory_gb=80", "cluster.cpus=3")
    engine = ("backend=vllm", "vllm.python=python", "methods=[base,dsmoe]", *cluster)
    config = config_of(*engine, "vllm.tensor_parallel=3")
    assert Work((), Cell(config, job_node(config))).resources.gpus == 3
    config = config_of(*engine, "vllm.tensor_parallel=8")
    with pytest.raises(
        InputError, match=r"vllm\.tensor_parallel: 8 GPUs are wanted, and there are 4; see cluster\.gpus"
    ):
        Cell(config, job_node(config))


def test_a_rule_that_discovers_gets_the_gpus_for_it(slurm: Stub, run: Run) -> None:
    cluster = ("cluster.gpus=8", "cluster.gpu_memory_gb=2", "discovery.batch_tokens=65536", "cluster.cpus=3")
    run("compare", "-m", SLURM, "methods=[base,dsmoe],[base,risk_difference],[base,other_domain]", *cluster)
    assert {re.findall(r"--gpus-per-node=(\d)", script)[0] for script in slurm.scripts.values()} == {"8"}


def test_a_job_is_named_for_the_node_that_it_will_run_on() -> None:
    config = config_of("model.threads=null", "cluster.gpus=1", "cluster.gpu_memory_gb=80", "cluster.cpus=5")
    node = job_node(config)
    assert (node.device, node.threads) == ("cuda", 5)
    assert Cell(config, node).id != Cell(config).id
    with pytest.raises(InputError, match=r"model\.device: cuda is asked for, but cluster\.gpus"):
        job_node(config_of("model.device=cuda", "cluster.gpus=0"))


def test_plan_names_the_cells_that_would_be_submitted(slurm: Stub, run: Run) -> None:
    node = ("model.threads=null", "cluster.gpus=1", "cluster.gpu_memory_gb=80", "cluster.cpus=5")
    _, out, _ = run("plan", *SWEEP[1:], *node)
    assert "6 cells: 0 finished, 6 missing; " in out
    assert "assuming 4.88 TFLOP/s and 500 GB/s\n" in out
    run(*SWEEP, *node)
    assert re.findall(r"missing +results/default/(\w+)", out) == list(
        submitted(Path("results/default"))[0]["overrides"]
    )


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("compare", SLURM, "domain=alchemy"), "domain: 'alchemy'"),
        (("compare", "-m", SLURM, "domain=chemistry,alchemy"), "domain: 'alchemy'"),
        (("compare", SLURM, "hydra.launcher.wait=perhaps"), "hydra.launcher.wait: 'perhaps' is not allowed; it should"),
        (("compare", SLURM, "hydra.launcher.wiat=true"), "hydra.launcher.wiat: "),
        (
            ("compare", SLURM, "+hydra.launcher.wiat=true"),
            "hydra.launcher.wiat: is no key of the launcher; it has name",
        ),
        (("compare", "hydra.launcher.wait=true"), "hydra.launcher.wait: is no key of the config; with hydra/launcher"),
        (
            ("compare", "hydra/launcher=slrum"),
            "hydra/launcher: 'slrum' is not one of basic, slurm; did you",
        ),
        (("compare", "hydra/launcher=1"), "hydra/launcher: 1 is not one of basic, slurm"),
        (
            ("compare", "-m", "hydra/launcher=basic,slurm"),
            "hydra/launcher=basic,slurm: is a setting of the whole",
        ),
        (("compare", "hydra/sweeper=ax"), "hydra/sweeper: 'ax' is not one of basic"),
        (("discover", SLURM), "hydra/launcher: discover runs here"),
        (
            ("compare", SLURM, "cluster.nodes=2", "methods=[base]"),
            "cluster.nodes: 2, but a model runs on one node unless method sft fine-tunes it",
        ),
        (("compare", SLURM, "cluster.nodes=2"), "cluster.nodes: 2 cannot share sft.processes=1 evenly"),
        (
            ("compare", "cluster.nodes=2", "sft.processes=4"),
            "cluster.nodes: 2, but this runs on 1; a Slurm job has more: hydra/launcher=slurm",
        ),
        (
            ("compare", SLURM, "cluster=gpu", "cluster.gpus=1", "cluster.nodes=2", "sft.processes=4"),
            "sft.processes: 2 on a node want a GPU each, and it has 1; see cluster.gpus",
        ),
        (("compare", "sft.processes=9"), "sft: processes is 9, but a step has only batch_size=8 questions"),
        (("compare", "+cluster.sbatch.mem=3"), "cluster: sbatch: mem is not yours to set here: use cluster.memory_gb"),
        (("compare", "+cluster.sbatch.job_name=x"), "cluster: sbatch: job_name is not yours to set here: dsmoe does"),
        (("compare", "+cluster.environment.a-b=x"), "cluster: environment: 'a-b' cannot be the name of a variable"),
        (
            ("compare", "cluster.environment.A=1"),
            "cluster.environment.A: is no key of the config yet; to add it, write +",
        ),
        (("compare", "cluster.memory_gb=-1"), "cluster.memory_gb: -1"),
        (("compare", "cluster.cells_per_job=0"), "cluster.cells_per_job: 0"),
        (("compare", SLURM, "paths.results=100%"), "paths.results: Slurm cannot write logs below"),
        (("status", "--wacth"), "--wacth: status takes"),
        (("compare", "--watch"), "--watch: compare takes"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_submitted(
    arguments: tuple[str, ...], fragment: str, slurm: Stub, run: Run
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"dsmoe: .*\n", err)
    assert fragment in err
    assert slurm.scripts == {}


def test_without_slurm_it_is_refused_before_anything_is_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    status, _, err = run(*SWEEP)
    assert (status, err) == (
        2,
        "dsmoe: hydra/launcher: slurm is chosen, but there is no sbatch and squeue here; leave it out\n",
    )
    assert os.listdir() == []


def test_what_sbatch_refuses_is_said_in_its_words_and_leaves_nothing(slurm: Stub, run: Run) -> None:
    slurm.refuses("sbatch: error: invalid partition specified: none\nsbatch: error: Batch job submission failed\n")
    status, _, err = run(*SWEEP, "cluster.partition=none")
    assert status == 2
    assert err == ("dsmoe: cluster: sbatch refuses: invalid partition specified: none Batch job submission failed\n")
    assert [path for path in Path("results").rglob("*") if path.name != ".lock"] == [
        Path("results/default"), Path("results/default/.jobs")
    ]  # fmt: skip


def test_where_nothing_can_be_written_nothing_is_submitted_or_left(slurm: Stub, run: Run) -> None:
    run(*SWEEP[:2], SLURM)
    before = list(Path("results/default/.jobs").iterdir())
    for size in (0, 1000):
        with files_of_at_most(size):
            status, out, err = run(*SWEEP)
        assert (status, out) == (2, "")
        assert re.fullmatch(r"(.*\n)?dsmoe: paths\.results: /.* cannot be written: file too large\n", err)
    assert list(slurm.scripts) == [101]
    assert list(Path("results/default/.jobs").iterdir()) == before


def test_a_silent_slurm_is_not_taken_for_an_empty_queue(slurm: Stub, run: Run) -> None:
    run(*SWEEP)
    slurm.goes_silent()
    for arguments in (SWEEP, ("status",)):
        status, _, err = run(*arguments)
        assert status == 2
        assert err == (
            "dsmoe: squeue: Slurm does not answer: slurm_load_jobs error: Unable to contact slurm controller\n"
        )
    assert list(slurm.scripts) == [101]


LOCAL = """\
#!/bin/bash

# Parameters
#SBATCH --array=0-1%2
#SBATCH --cpus-per-task=1
#SBATCH --job-name=dsmoe-x-0
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='FOLDER/dsmoe-x-0/%A_%a_0_log.out'
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=1440

# setup
export OMP_NUM_THREADS=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output 'FOLDER/dsmoe-x-0/%A_%a_%t_log.out' --cpus-per-task=1 PYTHON -S -c 'BLOCKED' -u -m submitit.core._submit 'FOLDER/dsmoe-x-0'


# teardown
code=$?
echo "$code ${SLURM_RESTART_COUNT:-0}" > 'FOLDER/dsmoe-x-0'/"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}".exit
exit $code"""  # noqa: E501
LARGE = """\
#!/bin/bash

# Parameters
#SBATCH --account='my project'
#SBATCH --array=0-1%1
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --job-name=dsmoe-x-0
#SBATCH --mem=244141M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='FOLDER/dsmoe-x-0/%A_%a_0_log.out'
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --reservation=mine
#SBATCH --signal=USR2@300
#SBATCH --time=720

# setup
export OMP_NUM_THREADS=8
export HF_HOME='/scratch/my hub'
export HF_HUB_OFFLINE=1
module load cuda
source activate dsmoe

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output 'FOLDER/dsmoe-x-0/%A_%a_%t_log.out' --cpus-per-task=16 PYTHON -S -c 'BLOCKED' -u -m submitit.core._submit 'FOLDER/dsmoe-x-0'


# teardown
code=$?
echo "$code ${SLURM_RESTART_COUNT:-0}" > 'FOLDER/dsmoe-x-0'/"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}".exit
exit $code"""  # noqa: E501
EXAMPLE = (
    "cluster=example", "cluster.account='my project'", "cluster.qos=high", "cluster.constraint='a100|h100'",
    "cluster.max_parallel=1", "cluster.setup=['module load cuda','source activate dsmoe']", "cluster.memory_gb=256",
    "+cluster.environment={HF_HOME:'/scratch/my hub',HF_HUB_OFFLINE:1}", "cluster.signal_seconds=300",
    "+cluster.sbatch={reservation:mine,exclusive:true,overcommit:false}",
)  # fmt: skip
SPREAD = (*EXAMPLE, "cluster.nodes=2", "sft.processes=8")
ON_TWO_NODES = LARGE.replace("#SBATCH --nodes=1", "#SBATCH --nodes=2").replace(
    "--cpus-per-task=16 PYTHON", "--cpus-per-task=16 --nodes=1 --ntasks=1 PYTHON"
)


@pytest.mark.parametrize(
    ("overrides", "gpus", "threads", "script"),
    [(("cluster=local",), 0, 1, LOCAL), (EXAMPLE, 4, 8, LARGE), (SPREAD, 4, 8, ON_TWO_NODES)],
    ids=["local", "example", "two nodes"],
)
def test_the_script_that_sbatch_gets(
    overrides: tuple[str, ...], gpus: int, threads: int, script: str, slurm: Stub, tmp_path: Path
) -> None:
    """To the letter: a change of it, ours or submitit's, is to be seen."""
    array = Array("dsmoe-x-0", (("a",), ("b",)))
    folder = tmp_path / "a folder"
    executor = executor_of(Resources(config_of(*overrides).cluster, gpus, threads), array, folder)
    executor.parameters["map_count"] = 2
    text = executor._make_submission_file_text(executor._submitit_command_str, "uid")
    for said, short in ((str(folder), "FOLDER"), (sys.executable, "PYTHON"), (WITH_USR2_BLOCKED, "BLOCKED")):
        text = text.replace(said, short)
    assert text == script


def test_a_signal_that_comes_while_python_starts_waits_until_it_is_asked_for(slurm: Stub, tmp_path: Path) -> None:
    """The script's own command line, with other Python code behind it."""
    executor = executor_of(Resources(config_of().cluster, 0, 1), Array("dsmoe-x-0", (("a",),)), tmp_path)
    code = (
        "import signal, sys; print(flush=True); sys.stdin.readline();"
        "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(5));"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})"
    )
    with subprocess.Popen(
        ["sh", "-c", f"exec {executor.python} -c '{code}'"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGUSR2)
        process.communicate(b"go on\n")
    assert process.returncode == 5


# What a job does.


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    """Three cells in one job; the second is frozen for a config that tests may change."""
    folder = new_folder(tmp_path / "results", "default")
    overrides = {}
    for number in range(3):
        (one,) = compose_cells([f"seed={number}", "cluster.time_minutes=60"])
        cell = Cell(one.config)
        Frozen.of(cell.id, one.config, cell.node.device, cell.node.threads, "less").write(folder)
        State("submitted", now()).write(folder, cell.id)
        overrides[cell.id] = one.overrides
    made = Submission(folder, str(tmp_path), overrides, (Array("dsmoe-x-0", (tuple(overrides),), "7"),))
    made.write()
    return made


def states(submission: Submission) -> list[str]:
    return [State.read(submission.folder, cell).state for cell in submission.overrides]


def job(submission: Submission, run: str) -> Job:
    return Job(str(submission.folder), tuple(submission.overrides), f"test_launch:{run}")


def does_nothing(frozen: Frozen, reporter: Reporter) -> None:
    with reporter.work("nothing") as advance:
        advance(1, 1)


def fails_on_seed_1(frozen: Frozen, reporter: Reporter) -> None:
    if frozen.config.seed == 1:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")


def asserts_on_the_gpu(frozen: Frozen, reporter: Reporter) -> None:
    try:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")
    except RuntimeError as error:
        raise ValueError("no answer") from error


def is_told_to_stop(frozen: Frozen, reporter: Reporter) -> None:
    with reporter.work("it all"):
        raise SystemExit(-1)


def test_what_is_pickled_is_small_and_imported_by_name(submission: Submission, tmp_path: Path) -> None:
    DelayedSubmission(job(submission, "does_nothing")).dump(tmp_path / "pickle")
    content = (tmp_path / "pickle").read_bytes()
    assert len(content) < 1000
    names = [str(argument) for _, argument, _ in pickletools.genops(content) if isinstance(argument, str)]
    assert {"dsmoe.launch.job", "Job", "submitit.core.utils"} <= set(names)
    assert not any("cloudpickle" in name for name in names)


def test_a_failed_cell_takes_no_other_along(submission: Submission, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        job(submission, "fails_on_seed_1")()
    assert ended.value.code == 1
    assert states(submission) == ["finished", "failed", "finished"]
    state = State.read(submission.folder, list(submission.overrides)[1])
    assert (state.cause, state.error.startswith("RuntimeError: [enforce fail")) == ("memory", True)
    assert "Traceback" in capfd.readouterr().err


def test_a_cell_that_loses_the_gpu_ends_its_job(slurm: Stub, submission: Submission) -> None:
    """All that the process asked of the GPU afterwards would fail too."""
    with pytest.raises(SystemExit) as ended:
        job(submission, "asserts_on_the_gpu")()
    assert ended.value.code == 1
    assert states(submission) == ["failed", "submitted", "submitted"]
    found = survey(submission.folder.parents[2], "default")
    assert [seen.condition for seen in found.values()] == ["failed", "lost", "lost"]
    assert [seen.error for seen in found.values()][1:] == ["its job ended before its turn came"] * 2


def test_a_job_that_cannot_write_its_state_ends_and_says_why(submission: Submission) -> None:
    """Its cells are lost, once it has left the queue."""
    with files_of_at_most(100), pytest.raises(InputError, match=r"\.state\.json cannot be written: file too large"):
        job(submission, "does_nothing")()
    assert states(submission) == ["submitted"] * 3


def test_a_job_that_is_started_again_runs_only_what_has_no_outcome(submission: Submission) -> None:
    with pytest.raises(SystemExit):
        job(submission, "fails_on_seed_1")()
    first, _, third = submission.overrides
    before = State.read(submission.folder, first)
    State("running", now()).write(submission.folder, third)
    with pytest.raises(SystemExit):
        job(submission, "does_nothing")()
    assert states(submission) == ["finished", "failed", "finished"]
    assert State.read(submission.folder, first) == before


def test_a_signal_that_waited_arrives_before_a_cell_is_begun(submission: Submission) -> None:
    def stop(*_: object) -> None:
        raise SystemExit(5)

    before = signal.signal(signal.SIGUSR2, stop)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)  # other threads of pytest's do not block it
        with pytest.raises(SystemExit) as ended:
            job(submission, "does_nothing")()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert ended.value.code == 5
    assert states(submission) == ["submitted"] * 3


def test_running_out_of_time_again_and_again_without_getting_anywhere_ends(
    submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(iter(submission.overrides))

    def stopped(after: float) -> State:
        one = job(submission, "is_told_to_stop")
        one._started -= after
        with pytest.raises(SystemExit):
            one()
        one.checkpoint()
        return State.read(submission.folder, first)

    assert stopped(after=60).fruitless == 0  # preempted
    for run in range(1, TIRED):
        assert (stopped(after=3600).state, stopped.__name__) == ("requeued", "stopped")
        assert State.read(submission.folder, first).fruitless == run
    with pytest.raises(SystemExit):
        stopped(after=3600)
    state = State.read(submission.folder, first)
    assert (state.state, state.cause) == ("failed", "time")
    assert state.error == "nothing was finished in 3 runs that cluster.time_minutes=60 ended: raise it"


@pytest.mark.parametrize(
    ("minutes", "signal_seconds", "seconds", "out"),
    [
        (60, 90, 60, False),
        (60, 90, 3600 - 90 - 60, True),  # Slurm is up to a minute early
        (5, 90, 150, True),
        (5, 90, 60, False),
        (1, 1, 10, True),
    ],
)
def test_who_is_told_to_stop_when_its_time_is_over_was_not_preempted(
    minutes: int, signal_seconds: int, seconds: int, out: bool
) -> None:
    cluster = config_of(f"cluster.time_minutes={minutes}", f"cluster.signal_seconds={signal_seconds}").cluster
    assert ran_out(cluster, seconds) == out


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError(), "memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "memory"),
        (OSError(12, "Cannot allocate memory"), "memory"),
        (RuntimeError("std::bad_alloc"), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory"),
        (OSError(28, "No space left on device"), "error"),
        (InputError("x"), "input"),
        (SteeringError("x"), "input"),
        (RuntimeError("x"), "error"),
        (KeyError("x"), "error"),
    ],
)
def test_causes(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause


def test_a_frozen_cell_is_read_as_it_was_written_or_not_at_all(submission: Submission) -> None:
    cell = next(iter(submission.overrides))
    frozen = Frozen.read(submission.folder, cell)
    assert frozen.config == config_of("seed=0", "cluster.time_minutes=60")
    path = submission.folder / f"{cell}.json"
    content = json.loads(path.read_text())
    for change in (
        {"config": {**content["config"], "seed": "0"}},
        {"config": {**content["config"], "sede": 0}},
        {"threads": "1"},
        {"more": 1},
        {"cell": "other"},
        {"schema": 2},
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(InputError, match=re.escape(f"{path}: is not what was submitted: ")):
            Frozen.read(submission.folder, cell)


def test_a_cell_whose_code_files_or_node_changed_is_refused(submission: Submission) -> None:
    cell = next(iter(submission.overrides))
    path = submission.folder / f"{cell}.json"
    content = json.loads(path.read_text())

    def refusal(**changes: object) -> str:
        path.write_text(json.dumps({**content, **changes}))
        with pytest.raises(InputError) as caught:
            run_frozen(Frozen.read(submission.folder, cell), Reporter())
        return str(caught.value)

    origin = content["origin"]
    assert "the code changed since it was submitted: torch 1.0 → 2" in refusal(origin={**origin, "torch": "1.0"})
    assert "commit 0 → " in refusal(origin={**origin, "commit": "0"})
    assert "code 0 → " in refusal(origin={**origin, "code": "0"})
    assert "it was submitted for tpu, but torch sees cpu on " in refusal(device="tpu")
    assert f"it would now be {cell}" not in refusal(config={**content["config"], "seed": 5})
    assert "the files that it names changed since it was submitted" in refusal(config={**content["config"], "seed": 5})


# What is made of what jobs leave.


@pytest.fixture
def study(slurm: Stub, run: Run) -> tuple[Path, dict[str, str]]:
    """A submission of six jobs: its folder, and its cells by their place in the array."""
    run(*SWEEP, "cluster.time_minutes=60")
    (one,) = submitted(Path("results/default"))
    (folder,) = Path("results/default/.jobs").glob("2*")
    return folder, {str(index): cell for index, (cell,) in enumerate(one["arrays"][0]["jobs"])}


def ended(folder: Path, index: str, code: int, run: int = 0) -> None:
    array = submitted(Path("results/default"))[0]["arrays"][0]["name"]
    (folder / array / f"101_{index}.exit").write_text(f"{code} {run}\n")


def test_every_condition_is_told_from_the_others(study: tuple[Path, dict[str, str]], slurm: Stub, run: Run) -> None:
    folder, cells = study
    array = submitted(Path("results/default"))[0]["arrays"][0]["name"]
    State("running", now(), doing="evaluate: sft", requeued=2).write(folder, cells["0"])
    State("requeued", now(), requeued=1).write(folder, cells["1"])
    State("running", now()).write(folder, cells["2"])
    State("running", now()).write(folder, cells["3"])
    ended(folder, "3", 137)
    State("running", now(), requeued=1).write(folder, cells["4"])
    ended(folder, "4", 137, run=0)  # of the run before the last
    (folder / array / "101_2.exit").touch()  # the disk was full
    State("failed", now(), cause="error", error="KeyError: 'x'").write(folder, cells["5"])
    (folder / array / "101_5_0_log.out").write_text("".join(f"line {number}\n" for number in range(20)))
    slurm.queue((array, 0, "RUNNING"), (array, 1, "PENDING"))
    found = survey(Path("results"), "default")
    assert [found[cells[index]].condition for index in "012345"] == [
        "running", "queued", "lost", "failed", "lost", "failed",
    ]  # fmt: skip
    assert found[cells["1"]].doing == "again, Resources"
    assert found[cells["2"]].error == "killed without a trace"
    assert (found[cells["3"]].cause, found[cells["4"]].cause) == ("memory", "")
    status, out, err = run("status")
    assert (status, err) == (1, "")
    assert out.startswith("results/default: 1 running, 1 queued, 2 failed, 2 lost\n")
    assert re.search(
        rf"^{cells['0']}  running, requeued 2 ×  .* steering.strength=0 domain=chemistry +evalu", out, re.M
    )
    assert f"failed: {cells['5']}  steering.strength=4 domain=biology" in out
    assert "  KeyError: 'x'\n" in out
    assert "line 19\n" in out
    assert "line 3\n" not in out
    assert "again, alone: dsmoe compare steering.strength=4 domain=biology cluster.time_minutes=60\n" in out
    assert re.search(r"its weights and its largest batch want .* fine-tuning not counted: cluster.memory_gb=\d+ ", out)


def test_a_job_that_slurm_holds_is_lost_and_another_takes_its_place(
    study: tuple[Path, dict[str, str]], slurm: Stub, run: Run
) -> None:
    """Whoever holds a job by hand means it; what Slurm holds after a failed start would wait for ever."""
    folder, cells = study
    array = submitted(Path("results/default"))[0]["arrays"][0]["name"]
    State("running", now(), doing="evaluate: sft").write(folder, cells["1"])
    slurm.queue(*((array, index, "PENDING") for index in range(6)), reasons={1: HELD, 2: "JobHeldUser"})
    status, out, _ = run("status")
    assert (status, out.splitlines()[0]) == (1, "results/default: 5 queued, 1 lost")
    assert "\n  its node could not start it, and Slurm holds it: launch failed requeued held; the same command" in out
    _, _, err = run(*SWEEP, "cluster.time_minutes=60")
    assert "not submitted: 5 queued\n" in err
    assert "submitted: 1 cell in job 102\n" in err
    assert slurm.cancelled == ["101_1"]


def test_accounting_that_does_not_answer_keeps_no_outcome_from_being_told(
    study: tuple[Path, dict[str, str]], slurm: Stub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cells = study
    State("running", now()).write(folder, cells["0"])
    (slurm.folder / "bin" / "sacct").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("dsmoe.launch.queue.SECONDS", 1)
    array = submitted(Path("results/default"))[0]["arrays"][0]["name"]
    slurm.queue(*((array, index, "PENDING") for index in range(1, 6)))
    status, out, _ = run("status")
    assert (status, out.splitlines()[0]) == (1, "results/default: 5 queued, 1 lost")


def test_status_needs_neither_slurm_nor_torch(study: tuple[Path, dict[str, str]]) -> None:
    folder, cells = study
    State("running", now(), doing="discover").write(folder, cells["0"])
    code = (
        "import sys; from dsmoe.cli import main; status = main(['status']); "
        "assert not {'torch', 'transformers', 'submitit', 'lm_eval'} & set(sys.modules); sys.exit(status)"
    )
    environment = {**os.environ, "PATH": os.path.dirname(sys.executable)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("results/default: 1 running, 5 queued\nthere is no Slurm here: ")


def test_status_of_nothing(run: Run) -> None:
    assert run("status", "study=none", "paths.results=nowhere") == (0, "nowhere/none: none\n", "")
    assert os.listdir() == []


def test_a_cell_that_is_being_written_is_not_taken_for_another_one(
    study: tuple[Path, dict[str, str]], slurm: Stub, run: Run
) -> None:
    _, cells = study
    partial = Path("results/default", f".{cells['0']}.partial")
    partial.mkdir()
    (partial / "status.json").write_text("{}")
    assert set(survey(Path("results"), "default")) == set(cells.values())


def test_a_cell_that_is_gone_is_submitted_again(study: tuple[Path, dict[str, str]], slurm: Stub, run: Run) -> None:
    folder, cells = study
    for cell in cells.values():
        State("finished", now()).write(folder, cell)
        Path("results/default", cell).mkdir()
        Path("results/default", cell, "status.json").write_text("{}")
    Path("results/default", cells["2"], "status.json").unlink()
    _, _, err = run(*SWEEP, "cluster.time_minutes=60")
    assert "not submitted: 5 finished\n" in err
    assert "submitted: 1 cell in job 102\n" in err


def test_waiting_retries_what_may_go_better_and_nothing_else(
    study: tuple[Path, dict[str, str]], slurm: Stub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cells = study
    for cause, cell in zip(("error", "input", "memory", "time", "error", "error"), cells.values(), strict=True):
        State("failed", now(), cause=cause, error="no").write(folder, cell)  # type: ignore[arg-type]
    again = (*SWEEP, "cluster.time_minutes=60", "cluster.retries=1", "hydra.launcher.wait=true")
    slurm.refuses("no more")
    status, _, err = run(*again)
    assert (status, err) == (2, "dsmoe: cluster: sbatch refuses: no more\n")
    (slurm.folder / "refuses").unlink()
    status, out, err = run(*again)  # nothing runs: all are lost at once, and tried once more
    assert (status, out) == (1, "")
    assert "submitted: 6 cells in 6 jobs, 102_[0-5]" in err
    assert "submitted: 6 cells in 6 jobs, 103_[0-5]" in err
    assert list(slurm.scripts) == [101, 102, 103]
    assert err.count("lost: ") == 6


def test_the_same_cells_are_waited_for_in_each_study(study: tuple[Path, dict[str, str]], slurm: Stub, run: Run) -> None:
    """A cell's name says nothing of its study."""
    _, cells = study
    for name in ("default", "other"):
        for cell in cells.values():
            Path("results", name, cell).mkdir(parents=True, exist_ok=True)
            Path("results", name, cell, "status.json").write_text("{}")
    found = wait({(Path("results"), name): list(cells.values()) for name in ("default", "other")}, Reporter())
    assert {place: set(of_study) for place, of_study in found.items()} == {
        (Path("results"), name): set(cells.values()) for name in ("default", "other")
    }


def test_interrupted_waiting_leaves_the_jobs_alone(
    study: tuple[Path, dict[str, str]], slurm: Stub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = submitted(Path("results/default"))[0]["arrays"][0]["name"]
    slurm.queue(*((array, index, "RUNNING") for index in range(6)))

    def interrupt(cells: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dsmoe.launch.wait.look", interrupt)
    status, out, err = run(*SWEEP, "cluster.time_minutes=60", "hydra.launcher.wait=true")
    assert (status, out) == (130, "")
    assert "not submitted: 6 queued\n" in err
    assert "interrupted; the jobs go on: the same command waits for them again, dsmoe status shows them\n" in err
