"""A checkpoint of every family, saved and loaded from disk, through the whole comparison on the embedded world."""

from pathlib import Path

import pytest
from conftest import random_model, word_tokenizer

from dsmoe.cli import main
from dsmoe.evaluation.samples import read_samples
from dsmoe.results import Results


def compare(folder: Path, *overrides: str) -> int:
    return main(
        [
            "compare", "model=checkpoint", f"model.path={folder / 'model'}", "model.threads=1", "domain=chemistry",
            "benchmark.non_target=[biology]", "benchmark.limit=4", "discovery.limit=8", "sft.train_size=8",
            "sft.epochs=1", "steering.num_experts=3", f"paths.results={folder / 'results'}", *overrides,
        ]
    )  # fmt: skip


def test_every_architecture_goes_through_compare(family: str, tmp_path: Path) -> None:
    random_model(family).save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    methods = ["base", "dsmoe", "random"] if family == "llama4_text" else ["base", "sft", "dsmoe", "random"]
    assert compare(tmp_path, f"methods=[{','.join(methods)}]") == 0
    (path,) = tmp_path.glob("results/default/*/results.json")
    assert {row.method for row in Results.read(path).rows} == {"chance", *methods}


def test_what_cannot_be_fine_tuned_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_model("llama4_text").save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    assert compare(tmp_path, "methods=[base,sft]") == 2
    assert "trl finds no backbone in Llama4ForCausalLM" in capsys.readouterr().err


def test_weights_that_change_between_runs_of_one_process_are_loaded_anew(tmp_path: Path) -> None:
    word_tokenizer().save_pretrained(tmp_path / "model")
    values = []
    for seed in (0, 1):
        random_model("olmoe", seed).save_pretrained(tmp_path / "model")
        assert compare(tmp_path, "methods=[base]") == 0
    for path in tmp_path.glob("results/stages/evaluate/*/samples.parquet"):
        values.append(tuple(tuple(sample.log_likelihoods or ()) for sample in read_samples(path)))
    assert len(values) == len(set(values)) == 4
