"""What is had before a run: the embedded model, a model and data of one's own, and what cannot be had."""

import json
from pathlib import Path

import pytest
from conftest import random_model, random_records, word_tokenizer
from test_compare import BRIEF

from dsmoe.cli import main
from dsmoe.domains import world


def records_file(folder: Path) -> Path:
    path = folder / "questions.jsonl"
    rows = [
        {"domain": one.domain, "question": one.question, "options": one.options, "answer": one.answer}
        for one in random_records(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_embedded_model_is_trained_once_for_prepare_and_for_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*BRIEF, f"paths.results={tmp_path}"]
    assert main(["prepare", "-m", "domain=chemistry,biology", *overrides]) == 0
    out = capsys.readouterr().out
    (folder,) = (tmp_path / "stages" / "pretrain").glob("*")
    assert f"model tiny: {folder}\n" in out
    assert f"data set world: {len(world.records())} questions are here\n" in out
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["pretrain"]
    assert main(["compare", "methods=[base]", "domain=chemistry", "benchmark.non_target=[biology]", *overrides]) == 0
    assert f"reuses {folder}" in capsys.readouterr().err


def test_a_model_and_data_of_ones_own_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_model("olmoe").save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    own = ("dataset=records", f"dataset.path={records_file(tmp_path)}", "domain=alpha")
    assert main(["prepare", "model=checkpoint", f"model.path={tmp_path / 'model'}", *own]) == 0
    out = capsys.readouterr().out
    assert out == f"data set records: 20 questions are here\nmodel checkpoint: {tmp_path / 'model'}\n"
    (tmp_path / "model" / "model.safetensors").unlink()
    assert main(["prepare", "model=checkpoint", f"model.path={tmp_path / 'model'}", *own]) == 2
    assert "has no *.safetensors" in capsys.readouterr().err


def test_what_the_hub_does_not_give_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ("dataset=records", f"dataset.path={records_file(tmp_path)}", "domain=alpha")
    assert main(["prepare", "model=olmoe", *own]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dsmoe: model.path: allenai/OLMoE-1B-7B-0924 cannot be had from the Hub: ")
    assert said.count("\n") == 1
