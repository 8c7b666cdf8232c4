"""wandb mirrors what is on disk: runs offline, at a server, or nowhere; it never harms a cell, nor shows a key."""

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import random_model, random_records, word_tokenizer
from wandb_file import check_tables, offline_run, sent_run
from wandb_server import ENTITY, KEY, WandbServer, wandb_server

from dsmoe.cli import main
from dsmoe.results import Results
from dsmoe.tracking import writer

COMPARE = [
    "compare", "-m", "model=checkpoint", "model.name=own", "dataset=records", "domain=alpha",
    "benchmark=letter", "benchmark.limit=8", "methods=[base,dsmoe]", "steering.num_experts=4", "tracking.tags=[pilot]",
    "study=strengths",
]  # fmt: skip
Output = pytest.CaptureFixture[str]
PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key of whoever runs the tests, and a folder of one's own to start from."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells, compared and tracked offline as by default, with a key that is set, from another folder."""
    folder = tmp_path_factory.mktemp("tracking")
    random_model("olmoe").save_pretrained(folder / "model")
    word_tokenizer().save_pretrained(folder / "model")
    with open(folder / "questions.jsonl", "w") as file:
        for record in random_records(60, "alpha") + random_records(60, "beta"):
            question = {"domain": record.domain, "question": record.question, "options": record.options}
            print(json.dumps({**question, "answer": record.answer}), file=file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        patch.delenv("WANDB_MODE")
        patch.chdir(here := tmp_path_factory.mktemp("here"))
        assert main(command(folder / "results")) == 0
    assert list(here.iterdir()) == []
    return folder / "results"


@pytest.fixture
def results(tracked: Path, tmp_path: Path) -> Path:
    """A copy of the two cells and of their mirrors, without the stages."""
    shutil.copytree(tracked / "strengths", tmp_path / "results" / "strengths")
    return tmp_path / "results"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """The stand-in, and a key that it knows."""
    with wandb_server() as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield found


def command(results: Path, *overrides: str, strengths: str = "1,4") -> list[str]:
    """The sweep of the two cells, or a part of it; they stand on the files beside the results."""
    own = [f"model.path={results.parent / 'model'}", f"dataset.path={results.parent / 'questions.jsonl'}"]
    return [*COMPARE, f"steering.strength={strengths}", *own, f"paths.results={results}", *overrides]


def publish(results: Path, *overrides: str) -> int:
    return main(["publish", "study=strengths", "tracking.tags=[pilot]", f"paths.results={results}", *overrides])


def cells(results: Path) -> dict[str, Results]:
    found = {path.parent.name: Results.read(path) for path in results.glob("strengths/*/results.json")}
    assert len(found) == 2
    return found


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def check_run(found: dict[str, Any], cell: Results) -> None:
    """That a run's flat config, its summary and its tables hold what results.json holds."""
    config, summary = found["config"], found["summary"]
    assert (found["group"], found["job_type"], found["tags"]) == ("strengths", "compare", ["pilot"])
    strength = cell.config["steering"]["strength"]
    assert found["name"] == f"own alpha dsmoe strength={strength:g} experts=4 logit seed=0"
    assert (config["steering.strength"], config["methods"]) == (strength, ["base", "dsmoe"])
    assert config["benchmark.limit"] == 8
    assert config["sweep"] == ["steering.strength"]
    assert config.keys().isdisjoint({"paths.results", "study", "tracking.mode", "cluster.environment"})
    for row in cell.rows:
        if row.task != "letter/beta":
            assert summary[f"{row.role}/{row.method}/value"] == row.value
            assert summary[f"{row.role}/{row.method}/n"] == row.n
    target, pooled = (
        next(c for c in cell.comparisons if (c.method, c.baseline, c.role, c.task) == ("dsmoe", "base", role, task))
        for role, task in (("target", "letter/alpha"), ("non_target", None))
    )
    assert summary["target/dsmoe/delta_base"] == target.delta
    assert summary["target/dsmoe/verdict_base"] == target.verdict
    assert summary["non_target/dsmoe/ci_low_base"] == pooled.ci_low
    assert pooled.harm is not None
    assert summary["non_target/dsmoe/harm"] == pooled.harm.verdict
    check_tables(found, cell)
    for figure in ("tradeoff", "experts"):
        assert found[f"figures/{figure}"].startswith(PNG)


# Offline.


def test_every_cell_has_an_offline_run_that_holds_its_results(tracked: Path) -> None:
    for name, cell in cells(tracked).items():
        (path,) = tracked.glob(f"strengths/.wandb/{name}/wandb/offline-run-*/run-*.wandb")
        assert path.name == f"run-{name}.wandb"
        found = offline_run(path)
        assert (found["id"], found["project"]) == (name, "dsmoe")
        check_run(found, cell)


def test_the_same_command_again_adds_no_run(tracked: Path) -> None:
    before = files(tracked)
    assert main(command(tracked, "tracking.mode=offline")) == 0
    assert files(tracked) == before


def test_an_attempt_that_was_killed_is_made_anew(tracked: Path) -> None:
    mirror = next(tracked.glob("strengths/.wandb/*"))
    (mirror / "sent.json").unlink()
    (old,) = mirror.glob("wandb/*")
    old.rename(old.with_name("offline-run-20200101_000000-killed"))
    assert main(command(tracked, "tracking.mode=offline")) == 0
    (new,) = mirror.glob("wandb/*/*.wandb")
    assert new.name == f"run-{mirror.name}.wandb"
    assert set(json.loads((mirror / "sent.json").read_text())) == {"offline"}


def test_disabled_writes_nothing_and_imports_no_wandb(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells are finished in another study of the same results: what they stand on is there already."""
    monkeypatch.setitem(sys.modules, "wandb", None)  # An import of it fails.
    assert main(command(tracked, "study=off", "tracking.mode=disabled")) == 0
    assert sorted(path.name for path in (tracked / "off").iterdir()) == [".logs", *sorted(cells(tracked))]


def test_an_analysis_is_tracked_too(tracked: Path) -> None:
    files = [f"model.path={tracked.parent / 'model'}", f"dataset.path={tracked.parent / 'questions.jsonl'}"]
    few = ["analysis.limit=4", "analysis.permutations=20", "analysis.random_routers=2", "analysis.causal=false"]
    own = [
        "analyze",
        "model=checkpoint",
        "model.name=own",
        "dataset=records",
        "domain=alpha",
        f"paths.results={tracked}",
    ]
    assert main([*own, *files, *few, "tracking.mode=offline"]) == 0
    (folder,) = [path.parent for path in tracked.glob("stages/analyze/*/analysis.json")]
    (path,) = tracked.glob(f"stages/analyze/.wandb/{folder.name}/wandb/*/*.wandb")
    found = offline_run(path)
    assert (found["id"], found["job_type"]) == (folder.name, "analyze")
    assert found["name"] == f"analyze own {folder.name[:8]}"
    assert {table.stem for table in folder.glob("*.parquet")} <= found.keys()
    assert {f"figures/{drawn.stem}" for drawn in folder.glob("*.png")} <= found.keys()


def test_a_wandb_that_does_not_answer_harms_no_cell(
    tracked: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE", 0.01)
    assert main(command(tracked, "study=silent", "tracking.mode=offline", strengths="1")) == 0
    output = capsys.readouterr()
    assert output.out.count("results: ") == 1
    assert "tracking: wandb gave no answer within 0.01 s; the results stay" in output.err
    assert list(tracked.glob("silent/.wandb/*/sent.json")) == []


# The server.


def test_publish_sends_every_cell_once_and_what_results_hold(
    results: Path, server: WandbServer, capsys: Output
) -> None:
    assert publish(results) == 0
    assert f"{server.url}/{ENTITY}/dsmoe: 2 sent; dashboard sent" in (said := capsys.readouterr().err)
    assert server.runs.keys() == cells(results).keys()
    for name, cell in cells(results).items():
        check_run(sent_run(server.runs[name]), cell)
    asked = len(server.requests)
    assert publish(results) == 0
    assert f"{server.url}/{ENTITY}/dsmoe: 2 there already; dashboard there already" in capsys.readouterr().err
    assert set(server.requests[asked:]) == {"Viewer", "GetDefaultEntity"}
    assert publish(results, "tracking.project=other", "tracking.entity=team") == 0  # Another place has nothing of it.
    assert f"{server.url}/team/other: 2 sent" in capsys.readouterr().err
    assert KEY not in said
    for path in [*results.rglob("*"), *(results.parent / "home").rglob("*"), *Path.cwd().rglob("*")]:
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
    assert list(Path.cwd().iterdir()) == []


def test_one_run_that_is_refused_does_not_lose_the_others(results: Path, server: WandbServer, capsys: Output) -> None:
    server.refused, other = sorted(cells(results))
    assert publish(results) == 1
    said = capsys.readouterr().err
    assert f"not sent: {results / 'strengths' / server.refused}: " in said
    assert f"{server.url}/{ENTITY}/dsmoe: 1 sent, 1 not sent; dashboard sent" in said
    assert "was deleted and its id is not free" in said
    assert server.runs.keys() == {other}
    server.refused = ""
    assert publish(results) == 0
    assert "1 sent, 1 there already" in capsys.readouterr().err


def test_results_that_cannot_be_drawn_do_not_stop_the_others(
    results: Path, server: WandbServer, capsys: Output
) -> None:
    odd, other = sorted(cells(results))
    (results / "strengths" / odd / "experts.parquet").write_bytes(b"")
    assert publish(results) == 1
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("not sent: ")]
    assert line.startswith(f"not sent: {results / 'strengths' / odd}: ArrowInvalid: ")
    assert f"{server.url}/{ENTITY}/dsmoe: 1 sent, 1 not sent; dashboard sent" in said
    assert server.runs.keys() == {other}


def test_files_that_do_not_arrive_are_not_taken_for_sent(results: Path, server: WandbServer, capsys: Output) -> None:
    shutil.rmtree(results / "strengths" / min(cells(results)))
    server.loses_files = True
    assert publish(results) == 1
    assert "1 not sent" in capsys.readouterr().err
    server.loses_files = False
    assert publish(results) == 0


def test_other_results_of_a_cell_are_sent_anew(results: Path, server: WandbServer) -> None:
    gone, kept = sorted(cells(results))
    shutil.rmtree(results / "strengths" / gone)
    path = results / "strengths" / kept / "results.json"
    assert publish(results) == 0
    document = json.loads(path.read_text())
    document["rows"][-1]["value"] = 0.125
    path.write_text(json.dumps(document))
    assert publish(results) == 0
    run = server.runs[path.parent.name]
    assert run["summary"]["non_target/dsmoe/value"] == 0.125
    assert len(run["history"]) == 1


def test_publish_against_a_refused_port_ends_twice_in_a_line_and_loses_nothing(
    results: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    before, dashboard = files(results), results / "strengths" / ".wandb" / "dashboard"
    for _ in range(2):
        began = time.monotonic()
        assert publish(results) == 1
        assert time.monotonic() - began < 30
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err == (
            f"publish: http://127.0.0.1:{port} cannot be reached: Connection refused; what was not sent is sent by the "
            "same command again\n"
            f"dashboard: {dashboard / 'dashboard.json'}\n"
        )
    kept = files(results)
    assert {path for path in kept if path.parent != dashboard} == before.keys()
    assert before.items() <= kept.items()


def test_publish_without_a_key_says_what_to_do(results: Path, server: WandbServer, capsys: Output) -> None:
    del os.environ["WANDB_API_KEY"]
    assert publish(results) == 1
    assert f"no API key for {server.url}: run wandb login, or set WANDB_API_KEY" in capsys.readouterr().err
    os.environ["WANDB_API_KEY"] = "0ther" * 8
    assert publish(results) == 1
    said = capsys.readouterr().err
    assert f"{server.url} does not accept the API key" in said
    assert "0ther0ther" not in said
    assert server.runs == {}


def test_online_without_a_network_costs_the_cell_nothing(
    tracked: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert main(command(tracked, "study=alone", "tracking.mode=online", strengths="1")) == 0
    output = capsys.readouterr()
    assert output.out.count("results: ") == 1
    (said,) = [line for line in output.err.splitlines() if "wandb" in line or "tracking:" in line]
    assert said == (
        "tracking: http://127.0.0.1:9 cannot be reached: Connection refused; the results stay, and dsmoe publish sends "
        "them"
    )
    assert len(list(tracked.glob("alone/*/results.json"))) == 1
    assert list(tracked.glob("alone/.wandb/*/sent.json")) == []


def test_online_sends_a_finished_cell(tracked: Path, server: WandbServer, capsys: Output) -> None:
    assert main(command(tracked, "tracking.mode=online", strengths="4")) == 0
    output = capsys.readouterr()
    assert KEY not in output.out + output.err
    (run,) = server.runs.values()
    assert run["config"]["steering.strength"]["value"] == 4


# Bad input.


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        (
            "tracking.mode=shared",
            "tracking.mode: 'shared' is not allowed; it should be 'offline', 'online' or 'disabled'",
        ),
        ("tracking.project=a/b", "tracking: project: 'a/b' holds '/', which wandb has in no name"),
        (f"tracking.tags=[{'x' * 65}]", "is longer than wandb's 64 letters"),
        ("study=other", "results/other: holds no finished cell; study=NAME and paths.results=FOLDER name others"),
    ],
)
def test_bad_input_is_one_line(override: str, fault: str, results: Path, capsys: Output) -> None:
    assert publish(results, override) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert fault in output.err


def test_the_mode_of_the_environment_is_the_default(
    results: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "shared")
    assert publish(results) == 2
    assert "tracking.mode: 'shared' is not allowed" in capsys.readouterr().err
