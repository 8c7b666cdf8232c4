"""A disk that fills up, or goes read-only, in mid-run: one line, nothing half-written, and the same results later."""

import os
import re
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from test_compare import BRIEF

from dsmoe.cli import main

COMMAND = (
    "compare", "domain=chemistry", "benchmark.non_target=[biology]", *BRIEF, "benchmark.limit=12",
    "model.pretrain.steps=5", "sft.epochs=1",
)  # fmt: skip
RESULTS = Path("results")
Run = Callable[[], tuple[int, str]]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the run leaves on a disk that takes all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("calm"))
        assert main(COMMAND) == 0
        return whole()


@pytest.fixture
def run(
    calm: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The comparison in a folder of its own: its status, and the last line of standard error.

    After each run there is nothing that has the name of something finished and is not as it is in a calm run.
    """
    monkeypatch.chdir(tmp_path)
    RESULTS.mkdir()

    def call() -> tuple[int, str]:
        capsys.readouterr()
        status, found = main(COMMAND), whole()
        folders = {os.path.dirname(name) for name in found}
        assert found == {name: content for name, content in calm.items() if os.path.dirname(name) in folders}
        return status, capsys.readouterr().err.splitlines()[-1]

    return call


def whole() -> dict[str, bytes]:
    """Every file that bears its final name, to the byte but for times."""
    return {
        str(path): b"" if path.name == "status.json" else path.read_bytes()
        for path in RESULTS.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.parts)
    }


def left_over() -> list[Path]:
    return [path for path in RESULTS.rglob(".*") if path.suffix != ".lock" and path.name != ".logs"]


def refused(said: str, why: str) -> str:
    """What could not be written, by a line that says so, and why, and nothing else."""
    found = re.fullmatch(r"dsmoe: paths\.results: results/(\S+)/\w+ cannot be written: (.*)", said)
    assert found, said
    assert found[2] == why
    return found[1]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As after `ulimit -f`: who writes more bytes than that to a file is refused."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def mount(*arguments: object) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing may be mounted here: {done.stderr.strip()}")


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a process may have its last file open yet


def test_a_file_that_is_too_large_is_one_line_whatever_writes_it(run: Run, calm: dict[str, bytes]) -> None:
    """The limit is raised until all can be written: each time the run gets further."""
    with files_of_at_most(64_000):
        status, said = run()
    assert (status, refused(said, "file too large"), whole()) == (2, "stages/pretrain", {})
    assert main(["discover", *COMMAND[1:], "methods=[dsmoe]"]) == 0
    refused_at, size = set(), 256
    while status:
        with files_of_at_most(size):
            status, said = run()
        assert left_over() == []
        if status:
            refused_at.add((status, refused(said, "file too large")))
        size *= 4
    assert refused_at == {(2, "stages/evaluate"), (2, "stages/fine_tune"), (2, "default")}
    assert whole() == calm


def test_a_disk_that_fills_up_is_one_line_and_with_more_room_the_run_goes_on(run: Run, calm: dict[str, bytes]) -> None:
    mount("-t", "tmpfs", "-o", "size=256k", "tmpfs", RESULTS)
    try:
        refused_at, status, size = set(), 2, 256
        while status:
            mount("-o", f"remount,size={size}k", RESULTS)
            status, said = run()
            assert left_over() == []
            if status:
                refused_at.add((status, refused(said, "no space left on device")))
            size = max(1240, size + 40)
        assert {(2, "stages/pretrain"), (2, "stages/fine_tune"), (2, "stages/evaluate")} <= refused_at
        assert whole() == calm
    finally:
        unmount(RESULTS)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be opened for writing below the folder any more; what is open stays so."""
    mount("--bind", folder, folder)
    try:
        mount("-o", "remount,bind,ro", folder)
        yield
    finally:
        unmount(folder)


def test_a_disk_gone_read_only_is_one_line_and_once_it_is_not_the_run_goes_on(run: Run, calm: dict[str, bytes]) -> None:
    """It happens in the middle of fine-tuning."""
    with read_only(RESULTS):  # or the test is skipped
        pass
    with ExitStack() as happening:

        def close() -> None:
            while not list(RESULTS.glob("stages/fine_tune/.*.partial")):
                time.sleep(0.01)
            happening.enter_context(read_only(RESULTS))

        closing = threading.Thread(target=close)
        closing.start()
        status, said = run()
        closing.join()
        assert (status, refused(said, "read-only file system")) == (2, "stages/fine_tune")
        status, said = run()
        assert (status, refused(said, "read-only file system")) == (2, "default")
    assert run()[0] == 0
    assert left_over() == []
    assert whole() == calm
