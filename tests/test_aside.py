"""What a second process finds out about models for `dsmoe plan`, and that plan says the same without it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import random_model, word_tokenizer

NAMED = """
import sys
from dsmoe.aside import models_aside
from dsmoe.compose import compose_cells

with models_aside() as aside:
    configs = [one.config for one in compose_cells(sys.argv[1:])]
    aside.ask(configs)
    aside.learn()
    process = aside.process

import dsmoe.models.load as load
import dsmoe.models.needs as needs
from dsmoe.methods import discovers

assert process.returncode is not None, "it outlives the context"
learned = needs.needs(configs[0], discovers(configs[0])), load.router_shape(configs[0].model)
assert "transformers" not in sys.modules, "found here, not learned"
needs.NEEDS.clear(), load.SHAPES.clear()
assert learned == (needs.needs(configs[0], discovers(configs[0])), load.router_shape(configs[0].model))
assert "transformers" in sys.modules
"""
ALONE = """
import sys
from dsmoe.cli import main

sys.executable = "/bin/false"
sys.exit(main(sys.argv[1:]))
"""


def python(code: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Code in a Python that has imported nothing yet."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(params=["embedded", "folder"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    if request.param == "embedded":
        return ("model=tiny",)
    random_model("olmoe").save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    return "model=checkpoint", f"model.path={tmp_path / 'model'}"


def test_what_is_learned_is_what_would_be_found_here(model: tuple[str, ...], tmp_path: Path) -> None:
    done = python(NAMED, *model, folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_plan_says_the_same_without_a_second_process(model: tuple[str, ...], tmp_path: Path) -> None:
    with_it = python(
        "import sys; from dsmoe.cli import main; sys.exit(main(sys.argv[1:]))", "plan", *model, folder=tmp_path
    )
    alone = python(ALONE, "plan", *model, folder=tmp_path)
    assert (with_it.returncode, with_it.stderr) == (alone.returncode, alone.stderr) == (0, "")
    assert with_it.stdout == alone.stdout
    assert "1 cell: 0 finished, 1 missing" in alone.stdout


def test_what_is_wrong_with_a_model_is_said_as_ever(tmp_path: Path) -> None:
    random_model("olmoe").save_pretrained(tmp_path / "model")
    (weights,) = (tmp_path / "model").glob("*.safetensors")
    os.truncate(weights, weights.stat().st_size // 2)
    word_tokenizer().save_pretrained(tmp_path / "model")
    done = python(
        ALONE.replace("/bin/false", sys.executable), "plan", "model=checkpoint", "model.path=model", folder=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dsmoe: model.path: model/model.safetensors is not a whole safetensors file")
    assert done.stderr.count("\n") == 1
