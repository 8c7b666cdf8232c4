"""A cell's journal: what every stage did, in lines that processes add to without mixing."""

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import random_model, random_records, word_tokenizer

from dsmoe.cli import main
from dsmoe.journal import Journal, last_line
from dsmoe.stage import Stage, journal_file

STAGE = Stage("discover", 1, {"records": "abc"})

WRITER = """
import sys
from pathlib import Path
from dsmoe.journal import Journal
journal = Journal(Path(sys.argv[1]), {"who": sys.argv[2]})
for number in range(200):
    journal.write("progress", number=number, note="x" * 500)
"""


SECRETS = ("HF_TOKEN", "WANDB_API_KEY", "OF_THE_CLUSTER")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def nothing(_: Path) -> None:
    """Makes an empty stage."""


def test_a_stage_tells_what_it_does_and_its_status_says_where(tmp_path: Path) -> None:
    journal = Journal(journal_file(tmp_path, "study", "cell"), {"device": "cpu", "threads": 1})
    folder = STAGE.run(tmp_path, nothing, print, journal)
    STAGE.run(tmp_path, nothing, print, journal)
    started, finished, reused = lines(tmp_path / "study" / ".logs" / "cell.jsonl")
    assert [line["event"] for line in (started, finished, reused)] == ["started", "finished", "reused"]
    for line in (started, finished, reused):
        assert datetime.fromisoformat(line["time"]).utcoffset() is not None
        assert line["host"]
        assert line["job"] is None
        facts = {"pid": os.getpid(), "device": "cpu", "threads": 1, "stage": "discover", "hash": STAGE.hash}
        assert facts.items() <= line.items()
    status = json.loads((folder / "status.json").read_text())
    assert (status["device"], status["threads"], status["stage"]) == ("cpu", 1, "discover")
    for content in (status, finished):
        assert content["seconds"] >= content["own_seconds"] >= 0
        peak = content.get("peak_host_bytes") or content["process_peak_host_bytes"]
        assert 1 << 20 < peak < 1 << 40


@pytest.mark.parametrize(("error", "event"), [(ValueError("no luck"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_what_failed_is_told_from_what_was_interrupted(error: BaseException, event: str, tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise error

    path = tmp_path / "journal"
    with pytest.raises(type(error)):
        STAGE.run(tmp_path, fail, print, Journal(path, {}))
    last = last_line(path)
    assert last is not None
    assert (last["event"], last["error"]) == (event, f"{type(error).__name__}: {error}")


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number)]) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = lines(path)
    for number in range(3):
        assert [line["number"] for line in found if line["who"] == str(number)] == list(range(200))


def test_a_job_is_named_as_slurm_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    Journal(path, {}).write("started")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    Journal(path, {}).write("started")
    assert [line["job"] for line in lines(path)] == ["7", "5_2"]


def test_half_a_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert last_line(path) is None
    Journal(path, {}).write("started")
    with path.open("a") as file:
        file.write('{"event": "fini')
    last = last_line(path)
    assert last is not None
    assert last["event"] == "started"


def test_progress_is_told_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[int, int, str]] = []
    path = tmp_path / "journal"
    journal = Journal(path, {})
    advance = journal.following(lambda done, total, note="": said.append((done, total, note)))
    advance(1, 3, "loss 2")
    assert not path.exists()
    monkeypatch.setattr("dsmoe.journal.SECONDS_BETWEEN_PROGRESS", 0.0)
    advance(2, 3, "loss 1")
    assert said == [(1, 3, "loss 2"), (2, 3, "loss 1")]
    (line,) = lines(path)
    assert (line["event"], line["done"], line["total"], line["note"]) == ("progress", 2, 3, "loss 1")


def test_no_secret_is_written_or_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = random_model("olmoe")
    model.save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    rows = [
        {"domain": one.domain, "question": one.question, "options": one.options, "answer": one.answer}
        for one in random_records(20)
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in SECRETS[:2]:
        monkeypatch.setenv(name, f"sentinel-{name}")
    overrides = [
        "model=checkpoint", f"model.path={tmp_path / 'model'}", "model.threads=1", "dataset=records",
        f"dataset.path={tmp_path / 'records.jsonl'}", "domain=alpha", "benchmark.limit=2", "methods=[base]", "seed=0,1",
        f"+cluster.environment.OF_THE_CLUSTER=sentinel-{SECRETS[2]}", f"paths.results={tmp_path / 'results'}",
    ]  # fmt: skip
    assert main(["compare", "-m", *overrides]) == 0
    assert main(["plan", "-m", *overrides]) == 0
    said = capfd.readouterr()
    assert "cell 2 of 2: " in said.err
    written = [path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert len(list((tmp_path / "results" / "default" / ".logs").iterdir())) == 2
    assert [content for content in (*written, said.out.encode(), said.err.encode()) if b"sentinel" in content] == []
