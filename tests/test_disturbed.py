"""Jobs disturbed on a real Slurm: the same command again, and studies end as if nothing had happened."""

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from slurm_stub import submitted
from test_compare import BRIEF, made
from test_dev_cluster import CLUSTER
from test_slurm import WAIT, Run, _slurm, chunk, outcomes, run, seen, until  # noqa: F401 (fixtures)

from dsmoe.cli import main
from dsmoe.launch.state import State
from dsmoe.launch.survey import BROKEN, UNSETTLED, Seen

pytestmark = pytest.mark.slurm

DISTURBANCES = int(os.environ.get("DISTURBANCES", "20"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
SIDE_BY_SIDE = 2
ODDS = 0.15
"""That a cell is disturbed at one look, of three a second, while it does what one is still to be disturbed at."""
UNMOVED = 20.0
"""Seconds after which a job that goes on has not minded: one that is to stop by itself has some for that."""
PATIENCE = 180.0
"""Seconds that a disturbance takes at most, all in all: something hangs otherwise."""
STUDY = (
    "compare", "-m", "steering.strength=1,4", "domain=chemistry", "benchmark.non_target=[biology]", *BRIEF,
    "model.pretrain.steps=60", "sft.epochs=8", "discovery.limit=null", "benchmark.limit=150",
)  # fmt: skip
LONG = (
    "compare", "domain=chemistry", *BRIEF, "model.pretrain.steps=20", "model.pretrain.num_layers=4", "sft.epochs=2",
    "benchmark.limit=250", "steering.random_draws=101",
)  # fmt: skip
SMALL = ("compare", "-m", "steering.strength=0,1,4", "domain=chemistry", "benchmark.non_target=[biology]", *BRIEF)
ONE = ("compare", "domain=chemistry", "methods=[base]", "benchmark.non_target=[]", *BRIEF)
SLURM = ("hydra/launcher=slurm", "cluster.time_minutes=60")

DOING = ("start", "pretrain, discover", "fine-tune", "evaluate")
"""What a cell does when it is hit; to wait for another that makes a stage counts as making it."""


def slurm(*command: str) -> None:
    # What has just ended cannot be disturbed any more: that is no fault.
    subprocess.run(command, capture_output=True, check=False, timeout=60)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def dev_cluster(verb: str) -> None:
    done = subprocess.run([CLUSTER, verb], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


OF_ONE: dict[str, Callable[[str, int], None]] = {
    "scontrol requeue": lambda job, pid: slurm("scontrol", "requeue", job),
    "USR2": lambda job, pid: slurm("scancel", "--signal=USR2", job),
    "SIGKILL of Python": lambda job, pid: kill(pid),
    "scancel": lambda job, pid: slurm("scancel", job),
}
OF_ALL = {"slurmd killed": "crash", "node killed": "blackout"}
KINDS = (*OF_ONE, *OF_ALL)


@dataclass(frozen=True)
class Target:
    """A cell whose job runs."""

    seen: Seen
    state: State

    @property
    def lives(self) -> bool:
        """Whether the process that wrote the state is there: it may be that of an earlier run of the job."""
        try:
            return "submitit" in Path(f"/proc/{self.state.pid}/cmdline").read_text()
        except OSError:
            return False

    @property
    def doing(self) -> str:
        """One of DOING."""
        what = self.state.doing
        if not self.lives or what == "starts":
            return "start"
        if what.startswith("waits for "):
            what = {"fine_tune": "fine-tune", "evaluate": "evaluate"}.get(Path(what).parent.name, "pretrain")
        return next(doing for doing in DOING if what.partition(":")[0] in doing)


@dataclass
class Hit:
    """A cell that was disturbed: how, at what, when, after how many starts of its job, and what became of that."""

    kind: str
    doing: str
    target: Target
    restarts: int
    at: float
    outcome: str = ""

    def look(self, now: Target) -> None:
        """Note what became of it, once that is known."""
        before = self.target
        assert before.seen.submission is not None
        assert now.seen.submission is not None
        if now.seen.submission.folder != before.seen.submission.folder:
            self.outcome = "submitted again"
        elif now.seen.condition in BROKEN:
            return  # until the same command is given
        elif now.state.requeued > self.restarts:
            self.outcome = "requeued"
        elif now.seen.condition == "finished" or (time.monotonic() - self.at > UNMOVED and now.lives):
            self.outcome = "went on"


def hit(kind: str, target: Target) -> Hit:
    """A cell as it is just before it is disturbed."""
    asked = ["squeue", "--noheader", "--Format=RestartCnt", f"--jobs={target.seen.job}"]
    restarts = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60).stdout.strip()
    return Hit(kind, target.doing, target, int(restarts or 0), time.monotonic())


class Study:
    """One sweep of two cells, in a folder of its own."""

    def __init__(self, results: Path, run: Run) -> None:
        self.results = results
        self.run = run
        self.hits: list[Hit] = []
        self.again()

    def again(self) -> None:
        """The same command."""
        status, _, err = self.run(self.results, *STUDY, *SLURM)
        assert status == 0, err

    def look(self) -> dict[str, Target]:
        """The cells, by name; what became of those that were hit is noted."""
        found = {}
        for name, one in seen(self.results).items():
            assert one.submission is not None
            found[name] = Target(one, State.read(one.submission.folder, name))
        for hit in self.hits:
            if not hit.outcome:
                hit.look(found[hit.target.seen.cell])
        return found

    def targets(self, found: dict[str, Target]) -> list[Target]:
        """Cells whose job runs, and that have got over what hit them before."""
        recovering = {hit.target.seen.cell for hit in self.hits if not hit.outcome}
        return [
            one
            for name, one in found.items()
            if one.seen.condition in UNSETTLED and one.seen.host and name not in recovering
        ]


class Storm:
    """Studies side by side, and the disturbances that are still to come; all that is drawn follows from the seed."""

    def __init__(self, folder: Path, run: Run, calm: dict[str, Any], say: Callable[[str], None]) -> None:
        self.folder = folder
        self.run = run
        self.calm = calm
        self.say = say
        self.draw = random.Random(SEED)
        kinds = [kind for _ in range(DISTURBANCES) for kind in self.draw.sample(KINDS, len(KINDS))][:DISTURBANCES]
        self.cards = [(DOING[number % len(DOING)], kind) for number, kind in enumerate(kinds)]
        self.began: list[Study] = []
        self.studies = [self.begin() for _ in range(SIDE_BY_SIDE)]

    def begin(self) -> Study:
        self.began.append(Study(self.folder / f"wild-{len(self.began)}", self.run))
        return self.began[-1]

    @property
    def hits(self) -> list[Hit]:
        return [hit for study in self.began for hit in study.hits]

    def rage(self) -> None:
        """Until all studies are finished; one that is so before all has come is followed by another."""
        end = time.monotonic() + PATIENCE * max(DISTURBANCES, 5)
        while self.studies:
            assert time.monotonic() < end, "it hangs"
            time.sleep(0.3)
            for study in list(self.studies):
                found = study.look()
                conditions = {one.seen.condition for one in found.values()}
                if conditions == {"finished"}:
                    self.check(study)
                    self.studies.remove(study)
                    self.studies += [self.begin()] if self.cards else []
                elif conditions & {"missing", *BROKEN}:
                    study.again()
                else:
                    self.maybe_strike(study, study.targets(found))

    def maybe_strike(self, study: Study, targets: list[Target]) -> None:
        for target in targets:
            card = next((card for card in self.cards if card[0] == target.doing), None)
            if card is None or self.draw.random() >= ODDS or (card[1] == "SIGKILL of Python" and not target.lives):
                continue
            self.cards.remove(card)
            doing, kind = card
            self.say(f"{DISTURBANCES - len(self.cards)} of {DISTURBANCES}: {kind} at {doing}: {target.seen.cell}")
            if kind in OF_ONE:
                study.hits.append(hit(kind, target))
                OF_ONE[kind](target.seen.job, target.state.pid)
            else:
                for other in self.studies:
                    other.hits += [hit(kind, one) for one in other.targets(other.look())]
                dev_cluster(OF_ALL[kind])
            study.again()
            return

    def check(self, study: Study) -> None:
        assert outcomes(study.results) == self.calm
        assert made_again(study.results) == []
        assert litter(study.results) == []


def works(log: Path) -> Iterator[str]:
    """The work that a job surely finished, by its log: after its last, it may have been killed before the rename."""
    for text in log.read_text().split("Starting with JobEnvironment") if log.exists() else ():
        said = re.findall(r"^(?:reuses .*|((?:pretrain|discover|fine-tune|evaluate): .*): [\d.]+ s)$", text, re.M)
        yield from filter(None, said[:-1])


def made_again(results: Path) -> list[str]:
    """Stages that were made although there was a finished one."""
    finished: Counter[str] = Counter()
    for one in submitted(results / "default"):
        for array in one["arrays"]:
            (folder,) = results.glob(f"default/.jobs/*/{array['name']}")
            for index, (cell,) in enumerate(array["jobs"]):
                job = f"{array['id']}_{index}" if len(array["jobs"]) > 1 else array["id"]
                for work in works(folder / f"{job}_0_log.out"):
                    of_cell = work.startswith(("evaluate: dsmoe", "evaluate: random"))
                    finished[f"{work}, {cell}" if of_cell else work] += 1
    return [work for work, count in finished.items() if count > 1]


def litter(results: Path) -> list[Path]:
    """What a killed process left; the lock of submissions stays."""
    ends = (".lock", ".partial")
    return [path for path in results.rglob(".*") if path.name.endswith(ends) and path.parent.name != ".jobs"]


def tally(hits: Iterable[Hit]) -> list[str]:
    """How many cells were disturbed how, at what, and what became of it."""
    counts = Counter((hit.kind, hit.doing, hit.outcome or "unknown") for hit in hits)
    return [
        f"{kind:18} {doing:19} {outcome:16} {counts[kind, doing, outcome]:3}"
        for kind, doing, outcome in sorted(counts, key=lambda of: (KINDS.index(of[0]), DOING.index(of[1]), of[2]))
    ]


def test_disturbed_studies_end_as_if_nothing_had_happened(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    assert main([*STUDY, f"paths.results={tmp_path / 'calm'}"]) == 0
    began = time.monotonic()
    storm = Storm(tmp_path, run, outcomes(tmp_path / "calm"), say)
    try:
        storm.rage()
    finally:
        count, hits, studies = DISTURBANCES - len(storm.cards), len(storm.hits), len(storm.began)
        seconds = time.monotonic() - began
        say(f"{count} disturbances (CHAOS_SEED={SEED}) hit {hits} jobs of {studies} studies in {seconds:.0f} s")
        say("\n".join(tally(storm.hits)))
    assert all(hit.outcome for hit in storm.hits)


def test_a_job_that_its_node_could_not_start_is_replaced(tmp_path: Path, run: Run) -> None:
    """A file is in the way where slurmd would put the job's script."""
    assert run(tmp_path, *ONE, *SLURM, "+cluster.sbatch.hold=true")[0] == 0
    (one,) = seen(tmp_path).values()
    assert (one.condition, one.doing) == ("queued", "JobHeldUser")
    config = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True).stdout
    (spool,) = re.findall(r"^SlurmdSpoolDir *= (.+)$", config, re.M)
    (obstacle := Path(spool, f"job{int(one.job):05}")).touch()
    slurm("scontrol", "release", one.job)
    until("Slurm holds it", lambda: all(one.held for one in seen(tmp_path).values()))
    obstacle.unlink()
    status, out, _ = run(tmp_path, "status")
    assert status == 1
    assert f"lost: {one.cell}" in out
    assert "Slurm holds it: launch failed requeued held; the same command again replaces it\n" in out
    assert run(tmp_path, *ONE, *SLURM, WAIT)[0] == 0
    assert len(submitted(tmp_path / "default")) == 2
    left = subprocess.run(["squeue", "--noheader", "--format=%A"], capture_output=True, text=True, check=True)
    assert one.job not in left.stdout.split()


def test_a_time_limit_too_short_for_the_cell_takes_several_runs_and_makes_each_stage_once(
    tmp_path: Path, run: Run
) -> None:
    """Slurm looks at limits every half minute, so a run takes between a half and a whole one.

    How many runs it takes depends on the machine; more than one in any case.
    """
    limit = ("cluster.time_minutes=1", "cluster.signal_seconds=1", "hydra/launcher=slurm", WAIT)
    status, out, err = run(tmp_path, *LONG, *limit)
    assert (status, out.count("results: ")) == (0, 1), err
    (one,) = seen(tmp_path).values()
    assert (one.condition, one.requeued >= 1) == ("finished", True)
    assert one.log is not None
    assert one.log.read_text().count("this job is timed-out") >= one.requeued
    assert made_again(tmp_path) == []
    assert {stage: made(tmp_path, stage) for stage in ("pretrain", "discover", "fine_tune", "evaluate")} == {
        "pretrain": 1, "discover": 1, "fine_tune": 1, "evaluate": 4 * 6 + 100,
    }  # fmt: skip


def test_without_accounting_a_silently_killed_job_is_named_within_a_minute(tmp_path: Path, run: Run) -> None:
    if os.environ.get("DEV_CLUSTER_ACCOUNTING") != "0":
        pytest.skip("the cluster keeps accounts")
    assert main([*SMALL, f"paths.results={tmp_path / 'calm'}"]) == 0
    results = tmp_path / "killed"
    assert run(results, *SMALL, *SLURM)[0] == 0
    victims: list[Seen] = []

    def one_trains() -> bool:
        victims[:] = [one for one in seen(results).values() if one.doing.startswith("pretrain")]
        return bool(victims)

    until("a job trains the embedded model", one_trains)
    victim, killed = victims[0], time.monotonic()
    slurm("scancel", "--signal=KILL", "--full", victim.job)
    until("status names it", lambda: f"lost: {victim.cell}  steering.strength=" in run(results, "status")[1])
    assert time.monotonic() - killed < 60
    assert run(results, "status")[0] == 1
    assert "  killed without a trace\n" in run(results, "status")[1]
    assert run(results, *SMALL, *SLURM, WAIT)[0] == 0
    assert [len(cells) for cells in chunk(results)] == [1]
    assert outcomes(results) == outcomes(tmp_path / "calm")
