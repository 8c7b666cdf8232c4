"""`dsmoe lm-eval`: lm-eval's own command line, end to end, with a model that is steered."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import random_model, random_records, word_tokenizer
from lm_eval.tasks._index import TaskIndex
from transformers import AutoModelForCausalLM, PreTrainedModel

from dsmoe import Steering, steer
from dsmoe.cli import main

EXPERTS = {0: (1, 5), 2: (0,)}


@dataclass(frozen=True)
class Place:
    """A folder with a checkpoint, a task, steerings and exports."""

    folder: Path

    def arguments(self, model: str, **model_args: object) -> list[str]:
        settings = {"pretrained": self.folder / "model", "dtype": "float32", **model_args}
        given = ",".join(f"{key}={value}" for key, value in settings.items() if value is not None)
        return [
            "lm-eval", "run", "--model", model, "--model_args", given, "--tasks", "words", "--device", "cpu",
            "--include_path", str(self.folder / "tasks"),
        ]  # fmt: skip

    def answers(self, output: Path, model: str, *more: str, **model_args: object) -> dict[int, list[float]]:
        """Each question's log-likelihoods as lm-eval logs them."""
        run = [*self.arguments(model, **model_args), *more, "--log_samples", "--output_path", str(output)]
        assert main(run) == 0
        (path,) = output.rglob("samples_words_*.jsonl")
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        return {one["doc_id"]: [float(response[0]) for response in one["filtered_resps"]] for one in samples}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    random_model("qwen3_moe").save_pretrained(folder / "model")
    random_model("gpt_oss").save_pretrained(folder / "biased")
    random_model("deepseek").save_pretrained(folder / "deepseek")
    for name in ("model", "biased", "deepseek"):
        word_tokenizer().save_pretrained(folder / name)
    (folder / "tasks").mkdir()
    rows = [{"question": one.question, "options": one.options, "answer": one.answer} for one in random_records(12)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "words",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(folder / "questions.jsonl")},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "tasks" / "words.yaml").write_text(yaml.safe_dump(task))
    for strength in (0, 4):
        Steering(EXPERTS, strength).save(folder / f"{strength}.json")
    Steering({1: (0,)}, 4.0).save(folder / "dense.json")
    for base, export in (("model", "export"), ("biased", "baked")):
        arguments = [
            "export", "model=checkpoint", f"model.path={folder / base}", "model.threads=1", "methods=[steering]",
            f"steering.file={folder / '4.json'}", f"paths.export={folder / export}",
        ]  # fmt: skip
        assert main(arguments) == 0
    return Place(folder)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lm-eval's own tasks, whose thousands of files it reads in every run: half a minute.

    Nor with its log, which keeps the standard error of the first test and would write to it when it is closed.
    """
    monkeypatch.setattr(TaskIndex, "_iter_yaml_files", staticmethod(lambda root: sorted(root.glob("*.yaml"))))
    monkeypatch.setenv("LMEVAL_LOG_LEVEL", "CRITICAL")


def by_hand(place: Place, model: PreTrainedModel) -> dict[int, list[float]]:
    """The log-likelihoods of the options after the question, one forward each."""
    tokenizer, answers = word_tokenizer(), {}
    for number, line in enumerate((place.folder / "questions.jsonl").read_text().splitlines()):
        row, values = json.loads(line), []
        for option in row["options"]:
            whole = tokenizer(f"{row['question']} {option}").input_ids
            start = len(tokenizer(row["question"]).input_ids)
            with torch.no_grad():
                scores = model(torch.tensor([whole])).logits[0].log_softmax(dim=-1)
            values.append(sum(float(scores[at - 1, whole[at]]) for at in range(start, len(whole))))
        answers[number] = values
    return answers


def stock(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def assert_close(found: dict[int, list[float]], expected: dict[int, list[float]]) -> None:
    assert found.keys() == expected.keys()
    for number, values in expected.items():
        assert found[number] == pytest.approx(values, rel=0, abs=2e-5)


def test_strength_zero_answers_as_the_base_and_as_lm_evals_own_model(place: Place, tmp_path: Path) -> None:
    own = place.answers(tmp_path / "hf", "hf")
    assert len(own) == 12
    assert place.answers(tmp_path / "base", "dsmoe") == own
    assert place.answers(tmp_path / "0", "dsmoe", steering=place.folder / "0.json") == own


def test_a_steering_gives_the_answers_of_the_steered_model(place: Place, tmp_path: Path) -> None:
    steering, model = Steering.load(place.folder / "4.json"), stock(place.folder / "model")
    base = by_hand(place, model)
    with steer(model, steering):
        expected = by_hand(place, model)
    assert max(abs(a - b) for number in base for a, b in zip(base[number], expected[number], strict=True)) > 1e-3
    found = place.answers(tmp_path / "4", "dsmoe", steering=place.folder / "4.json")
    assert_close(found, expected)
    assert place.answers(tmp_path / "export", "dsmoe", pretrained=place.folder / "export") == found
    (results,) = (tmp_path / "4").rglob("results_*.json")
    assert json.loads(results.read_text())["config"]["steering"] == steering.to_json()


def test_batches_are_steered_too(place: Place, tmp_path: Path) -> None:
    steering = place.folder / "4.json"
    one = place.answers(tmp_path / "1", "dsmoe", steering=steering)
    assert_close(place.answers(tmp_path / "5", "dsmoe", "--batch_size", "5", steering=steering), one)


def test_a_steered_checkpoint_is_steered_once(place: Place, tmp_path: Path) -> None:
    model = stock(place.folder / "biased")
    with steer(model, Steering(EXPERTS, 4.0)):
        expected = by_hand(place, model)
    assert_close(place.answers(tmp_path / "dsmoe", "dsmoe", pretrained=place.folder / "baked"), expected)
    assert_close(place.answers(tmp_path / "hf", "hf", pretrained=place.folder / "baked"), expected)


def test_an_exports_own_dtype_stands_where_none_is_given(place: Place, tmp_path: Path) -> None:
    base = json.loads((place.folder / "export" / "base.json").read_text())
    folder = tmp_path / "bf16"
    folder.mkdir()
    (folder / "base.json").write_text(json.dumps({**base, "dtype": "bfloat16"}))
    (folder / "steering.json").write_text((place.folder / "export" / "steering.json").read_text())
    for dtype, expected in ((None, "torch.bfloat16"), ("float32", "torch.float32")):
        place.answers(tmp_path / str(dtype), "dsmoe", pretrained=folder, dtype=dtype)
        (results,) = (tmp_path / str(dtype)).rglob("results_*.json")
        assert json.loads(results.read_text())["config"]["model_dtype"] == expected


def run(*arguments: str, folder: Path, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LMEVAL_LOG_LEVEL": "INFO"}
    command = [sys.executable, *options, "-m", "dsmoe", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("model", "steering"), [("model", "4.json"), ("deepseek", "dense.json")])
def test_in_a_process_of_its_own(model: str, steering: str, place: Place, tmp_path: Path) -> None:
    """Where nobody else has told transformers of DeepSeek-MoE."""
    files = {"pretrained": place.folder / model, "steering": place.folder / steering}
    done = run(*place.arguments("dsmoe", **files), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "|words|" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["lm-eval", "--help"], ["--help", "lm-eval"], ["lm-eval"]])
def test_help_is_lm_evals_own_and_imports_no_torch(arguments: list[str], tmp_path: Path) -> None:
    done = run(*arguments, folder=tmp_path, options=("-X", "importtime"))
    assert done.returncode == 0
    assert done.stdout.startswith("usage: lm-eval")
    assert "validate" in done.stdout
    assert " torch\n" not in done.stderr


def test_lm_evals_own_faults_and_verbs_stay_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.argv
    assert main(["lm-eval", "run", "--frobnicate"]) == 2
    assert "lm-eval: error: unrecognized arguments: --frobnicate" in capsys.readouterr().err
    assert main(["lm-eval", "run", "--help"]) == 0
    assert "--use_cache" in capsys.readouterr().out
    assert sys.argv is before


# What is refused.

Case = tuple[str, dict[str, object], tuple[str, ...], tuple[str, ...]]
CASES: list[Case] = [
    ("cache", {}, ("--use_cache", "{out}/cache"), ("--use_cache", "does not know the steering", "leave it out")),
    ("cache in a config", {}, ("--config", "{files}/config.yaml"), ("--use_cache", "does not know the steering")),
    ("no model", {"pretrained": None}, (), ("--model_args", "pretrained=FOLDER")),
    ("no checkpoint", {"pretrained": "/no/where"}, (), ("--model_args: pretrained=/no/where cannot be loaded",)),
    ("no steering file", {"steering": "{files}/none.json"}, (), ("none.json: cannot be read",)),
    ("other file", {"steering": "{files}/config.yaml"}, (), ("config.yaml: is not JSON",)),
    ("both", {"pretrained": "{files}/export", "steering": "{files}/4.json"}, (), ("steered already", "leave out")),
    ("twice", {"pretrained": "{files}/baked", "steering": "{files}/4.json"}, (), ("steered already", "leave out")),
    ("base gone", {"pretrained": "{files}/gone"}, (), ("gone: its base", "is gone")),
    ("half an export", {"pretrained": "{files}/half"}, (), ("half: is no export",)),
    ("code of its own", {"pretrained": "{files}/code"}, (), ("code: its base runs", "trust_remote_code=True")),
    ("a dense layer", {"steering": "{files}/dense.json"}, (), ("layer 1 has no router", "[0, 2]")),
]


@pytest.fixture(scope="module")
def files(place: Place) -> Path:
    folder = place.folder
    (folder / "config.yaml").write_text(yaml.safe_dump({"use_cache": str(folder / "cached"), "model": "hf"}))
    base = json.loads((folder / "export" / "base.json").read_text())
    for name, changed in (("gone", {"path": str(folder / "nowhere")}), ("code", {"trust_remote_code": True})):
        (folder / name).mkdir()
        (folder / name / "base.json").write_text(json.dumps({**base, **changed}))
        Steering(EXPERTS, 4.0).save(folder / name / "steering.json")
    (folder / "half").mkdir()
    (folder / "half" / "base.json").write_text(json.dumps(base))
    return folder


@pytest.mark.parametrize(("model_args", "more", "fragments"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_what_cannot_be_run_is_refused_in_one_line(
    model_args: dict[str, object],
    more: tuple[str, ...],
    fragments: tuple[str, ...],
    place: Place,
    files: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def filled(value: Any) -> Any:
        return value.format(files=files, out=tmp_path) if isinstance(value, str) else value

    monkeypatch.chdir(tmp_path)
    before = sorted(files.rglob("*"))
    arguments = place.arguments("dsmoe", **{key: filled(value) for key, value in model_args.items()})
    status = main([*arguments, *map(filled, more), "--output_path", str(tmp_path / "results")])
    out, err = capfd.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("dsmoe: ")
    assert err.count("\n") == 1
    assert [fragment for fragment in fragments if fragment not in err] == []
    assert list(tmp_path.iterdir()) == []
    assert sorted(files.rglob("*")) == before


def test_the_cache_is_lm_evals_own_affair_for_its_own_models(place: Place, tmp_path: Path) -> None:
    assert main([*place.arguments("hf"), "--use_cache", str(tmp_path / "cache")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cache_rank0.db"]


def test_the_cache_is_refused_from_python_too(place: Place, tmp_path: Path) -> None:
    import lm_eval

    import dsmoe.steered_lm  # noqa: F401 (registers the model)
    from dsmoe import InputError

    with pytest.raises(InputError, match="does not know the steering"):
        lm_eval.simple_evaluate(
            "dsmoe",
            {"pretrained": str(place.folder / "model")},
            tasks=[str(place.folder / "tasks" / "words.yaml")],
            device="cpu",
            use_cache=str(tmp_path / "cache"),
        )
