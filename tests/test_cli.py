"""The command line: quick help, exit statuses, and the same from an installed wheel."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from dsmoe.config import config_root
from dsmoe.help import VERBS

REPOSITORY = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "lm_eval", "wandb", "hydra", "datasets", "numpy"}


def run(
    *arguments: str, folder: Path = REPOSITORY, options: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-m", "dsmoe", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def imported(stderr: str) -> set[str]:
    return {name.partition(".")[0] for name in re.findall(r"\| +(\S+)$", stderr, re.MULTILINE)}


def assert_refused(done: subprocess.CompletedProcess[str], *fragments: str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"dsmoe: .*\n", done.stderr)
    assert [fragment for fragment in fragments if fragment not in done.stderr] == []


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_program_help_names_every_verb(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.help)}$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if not verb.foreign])
def test_verb_help(verb: str) -> None:
    done = run(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"dsmoe {verb}")
    assert VERBS[verb].example in done.stdout
    assert "\n  steering.strength=4.0\n" in done.stdout


def test_unknown_verb_and_flags() -> None:
    assert_refused(run("comapre"), "'comapre'", "evaluate", "did you mean compare?")
    assert_refused(run("--frobnicate"), "--frobnicate", "--help")
    assert_refused(run("compare", "--frobnicate"), "--frobnicate", "--multirun", "KEY=VALUE")
    assert_refused(run("evaluate", "-m"), "-m", "evaluate takes --help")
    assert_refused(run("discover", "+sweeps=strength"), "discover runs one config", "compare")


def test_bad_override_ends_with_one_line_before_anything_heavy_is_imported() -> None:
    done = run("compare", "steering.strengh=4", options=["-X", "importtime"])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("dsmoe: steering.strengh: is no key of the config; did you mean")
    assert imported(done.stderr) & {"torch", "transformers", "lm_eval", "wandb", "datasets"} == set()


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    names = imported(run(*arguments, options=["-X", "importtime"]).stderr)
    assert "dsmoe" in names
    assert names & HEAVY == set()


def test_importing_the_package_alone_imports_nothing_heavy() -> None:
    code = "import sys, dsmoe; print(*sys.modules); dsmoe.Record; assert 'torch' not in sys.modules; dsmoe.nothing"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "dsmoe" in done.stdout.split()
    assert set(done.stdout.split()) & HEAVY == set()
    assert done.stderr.splitlines()[-1] == "AttributeError: module 'dsmoe' has no attribute 'nothing'"


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"]], ids=["less than a buffer", "more"])
def test_a_reader_that_goes_away_leaves_no_traceback(arguments: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dsmoe", *arguments],
        cwd=REPOSITORY,
        env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # before anything is written, as `| head -1` may do at any time
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed alone into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(REPOSITORY)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    if done.returncode and re.search("Connection|resolve|No matching distribution", done.stdout + done.stderr):
        pytest.skip("the build's requirements cannot be had here")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(pip, capture_output=True, check=True)
    return folder


def test_the_wheel_holds_all_that_is_not_python(installed: Path) -> None:
    (wheel,) = installed.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    root = config_root()
    configs = {
        path.relative_to(root).as_posix() for part in ("conf", "sweeps") for path in (root / part).rglob("*.yaml")
    }
    assert len(configs) > 15
    assert {f"dsmoe/{path}" for path in configs} <= inside
    files = (path for path in (REPOSITORY / "dsmoe").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {path.relative_to(REPOSITORY).as_posix() for path in files} <= inside
    assert not any(path.startswith(("tests/", "dsmoe/tests/")) for path in inside)


def test_the_wheel_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    place = {"folder": tmp_path, "options": ["-P"]}
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import dsmoe; print(dsmoe.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.strip() == str(installed / "site" / "dsmoe" / "__init__.py")
    done = run("compare", "--help", PYTHONPATH=str(installed / "site"), **place)  # type: ignore[arg-type]
    assert done.returncode == 0
    assert done.stdout == run("compare", "--help").stdout
    done = run("compare", "+sweeps=strength", "domain=7", PYTHONPATH=str(installed / "site"), **place)  # type: ignore[arg-type]
    assert_refused(done, "domain: 7 is not allowed")
    assert list(tmp_path.iterdir()) == []
