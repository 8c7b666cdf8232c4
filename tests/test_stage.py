"""A stage: written whole or not at all, made once, whoever asks and whenever it is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dsmoe import InputError, provenance
from dsmoe.cli import main
from dsmoe.folders import write_new
from dsmoe.provenance import stable_hash
from dsmoe.stage import Stage, is_finished, write_whole

STAGE = Stage(
    "discover", 1, {"records": "abc", "quantile": 0.15, "stop_words": ["a", "b"], "model": {"x": 1, "y": None}}
)

MAKER = """
import os, sys, time
from pathlib import Path
from dsmoe.stage import write_whole

folder, log, behaviour = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def make(temporary):
    with log.open("a") as file:
        file.write(f"{os.getpid()} begins\\n")
    (temporary / "half").write_text("half")
    if behaviour == "hang":
        time.sleep(600)
    if behaviour == "fail":
        time.sleep(0.5)
        raise RuntimeError("no luck")
    time.sleep(0.5)
    (temporary / "value").write_text(str(os.getpid()))
    with log.open("a") as file:
        file.write(f"{os.getpid()} ends\\n")

write_whole(folder, {"key": 1}, make, lambda line: print(line, flush=True))
print("value", (folder / "value").read_text())
"""


def start(folder: Path, log: Path, behaviour: str = "make") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKER, str(folder), str(log), behaviour]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, text: str) -> None:
    for _ in range(3000):
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"{text!r} never came to stand in {path}")


def value_maker(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "value").write_text("7")


def test_hash_depends_on_all_of_the_key() -> None:
    others = [
        Stage("evaluate", 1, STAGE.config),
        Stage("discover", 2, STAGE.config),
        *(Stage("discover", 1, {k: v for k, v in STAGE.config.items() if k != key}) for key in STAGE.config),
        *(Stage("discover", 1, {**STAGE.config, key: "changed"}) for key in STAGE.config),
        Stage("discover", 1, {**STAGE.config, "more": None}),
        Stage("discover", 1, {**STAGE.config, "stop_words": ["b", "a"]}),
        Stage("discover", 1, {**STAGE.config, "model": {"x": 2, "y": None}}),
        Stage("discover", 1, {**STAGE.config, "quantile": "0.15"}),
    ]
    hashes = [stage.hash for stage in (STAGE, *others)]
    assert len(set(hashes)) == len(hashes)
    assert len(hashes) == 15


def test_hash_is_that_of_sorted_json() -> None:
    # printf '{"a": [1, "é"], "b": null}' | sha256sum
    assert stable_hash({"b": None, "a": (1, "é")}) == "67bede5415afadc60059"
    with pytest.raises(ValueError, match="Out of range"):
        stable_hash({"a": float("nan")})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)
)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=5), st.randoms(use_true_random=False))
def test_hash_does_not_depend_on_the_order_of_keys(config: dict[str, Any], draw: Any) -> None:
    shuffled = dict(draw.sample(list(config.items()), len(config)))
    assert Stage("s", 1, shuffled).hash == Stage("s", 1, config).hash
    assert Stage("s", 1, {"in": shuffled}).hash == Stage("s", 1, {"in": config}).hash


def test_a_stage_lies_whole_where_its_hash_says(tmp_path: Path) -> None:
    said: list[str] = []
    folder = STAGE.run(tmp_path, value_maker, said.append)
    assert folder == STAGE.folder(tmp_path) == tmp_path / "stages" / "discover" / STAGE.hash
    assert (folder / "inner" / "value").read_text() == "7"
    assert yaml.safe_load((folder / "config.yaml").read_text()) == STAGE.key
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert sorted(path.name for path in folder.parent.iterdir()) == [STAGE.hash]
    assert said == []


def test_a_finished_stage_is_not_made_again(tmp_path: Path) -> None:
    folder = STAGE.run(tmp_path, value_maker, print)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    said: list[str] = []

    def never(_: Path) -> None:
        raise AssertionError("made again")

    assert STAGE.run(tmp_path, never, said.append) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert said == [f"reuses {folder}"]


def test_a_lock_that_its_killed_owner_left_beside_a_finished_stage_is_removed(tmp_path: Path) -> None:
    folder = STAGE.run(tmp_path, value_maker, print)
    folder.with_name(f".{STAGE.hash}.lock").touch()
    STAGE.run(tmp_path, value_maker, print)
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing_to_be_mistaken_for_a_stage(error: type[BaseException], tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        value_maker(folder)
        raise error

    folder = tmp_path / "stage"
    with pytest.raises(error):
        write_whole(folder, {}, fail, print)
    assert not is_finished(folder)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    write_whole(folder, {}, value_maker, print)
    assert sorted(tmp_path.iterdir()) == [folder]


def test_what_a_killed_process_left_is_no_stage_and_no_hindrance(tmp_path: Path) -> None:
    folder, log = tmp_path / "stage", tmp_path / "log"
    killed = start(folder, log, "hang")
    wait_for(log, "begins")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not folder.exists()
    assert (tmp_path / ".stage.partial").is_dir()
    write_whole(folder, {}, value_maker, print)
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "inner", "status.json"]
    assert sorted(tmp_path.iterdir()) == [log, folder]


@pytest.mark.parametrize("verb", ["report", "publish"])
def test_what_a_power_cut_left_of_a_cell_is_no_cell(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own" / ".0123.partial").mkdir(parents=True)
    (tmp_path / "own" / ".0123.partial" / "status.json").touch()
    assert main([verb, "study=own", f"paths.results={tmp_path}"]) == 2
    assert f"dsmoe: {tmp_path}/own: holds no finished cell" in capsys.readouterr().err


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    folder, log = tmp_path / "stage", tmp_path / "log"
    first = start(folder, log)
    wait_for(log, "begins")
    second = start(folder, log)
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert log.read_text() == f"{first.pid} begins\n{first.pid} ends\n"
    assert all(output.splitlines()[-1] == f"value {first.pid}" for output, _ in outputs)
    assert sorted(tmp_path.iterdir()) == [log, folder]


@pytest.mark.parametrize("behaviour", ["fail", "hang"])
def test_one_process_fails_or_dies_and_the_other_makes_it(behaviour: str, tmp_path: Path) -> None:
    folder, log = tmp_path / "stage", tmp_path / "log"
    first = start(folder, log, behaviour)
    wait_for(log, "begins")
    second = start(folder, log)
    assert second.stdout is not None
    said = second.stdout.readline()
    assert behaviour == "fail" or said == f"waits for another process that makes {folder}\n"
    if behaviour == "hang":
        os.kill(first.pid, signal.SIGKILL)
    _, complaint = first.communicate(timeout=60)
    output, _ = second.communicate(timeout=60)
    assert first.returncode != 0
    assert ("no luck" in complaint) == (behaviour == "fail")
    assert second.returncode == 0
    assert (said + output).splitlines()[-1] == f"value {second.pid}"
    assert log.read_text() == f"{first.pid} begins\n{second.pid} begins\n{second.pid} ends\n"
    assert sorted(tmp_path.iterdir()) == [log, folder]


def test_a_folder_that_is_not_whole_is_refused_before_any_work(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    (folder / "results.json").write_text("{}")

    def never(_: Path) -> None:
        raise AssertionError("made")

    with pytest.raises(InputError, match="not whole"):
        write_whole(folder, {}, never, print)
    assert [path.name for path in folder.iterdir()] == ["results.json"]


def test_a_place_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"paths\.results: .*file/stages/discover/\w+ cannot be written: not a dir"):
        STAGE.run(tmp_path / "file", value_maker, print)


# Folders of the user's own.


def test_an_own_folder_holds_what_is_made_and_no_more(tmp_path: Path) -> None:
    write_new(tmp_path / "a" / "own", value_maker, "paths.export")
    assert [path.name for path in (tmp_path / "a" / "own").iterdir()] == ["inner"]
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "own"]
    with pytest.raises(InputError, match=r"paths\.export: .*own is there already"):
        write_new(tmp_path / "a" / "own", value_maker, "paths.export")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_nothing_of_an_own_folder(error: type[BaseException], tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        value_maker(folder)
        raise error

    with pytest.raises(error):
        write_new(tmp_path / "own", fail, "paths.export")
    assert list(tmp_path.iterdir()) == []


def test_an_own_folder_is_written_by_one_at_a_time(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        with pytest.raises(InputError, match="another process is writing"):
            write_new(tmp_path / "own", value_maker, "paths.export")
        value_maker(folder)

    write_new(tmp_path / "own", make, "paths.export")
    assert list(tmp_path.iterdir()) == [tmp_path / "own"]


def test_only_a_commit_that_holds_the_package_is_the_packages(tmp_path: Path) -> None:
    """As where a wheel is installed below somebody's own repository."""
    package = tmp_path / "site-packages" / "dsmoe"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(provenance.__file__, package)

    def git(*words: str) -> str:
        own = ["-c", "user.name=me", "-c", "user.email=me@here", "-C", str(tmp_path)]
        return subprocess.run(["git", *own, *words], capture_output=True, text=True, check=True).stdout.strip()

    def found() -> str:
        code = [sys.executable, "-c", "from dsmoe.provenance import git_commit; print(git_commit())"]
        return subprocess.run(code, capture_output=True, text=True, check=True, cwd=package.parent).stdout.strip()

    git("init")
    git("commit", "--allow-empty", "-m", "mine")
    assert found() == "None"
    git("add", ".")
    git("commit", "-m", "all")
    assert found() == git("rev-parse", "HEAD")
