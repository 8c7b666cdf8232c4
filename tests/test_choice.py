"""Choices on dev: the best within the margin, kept with its curve; nothing before the end sees the test split."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import random_model, random_records, word_tokenizer
from pyarrow import parquet

from dsmoe import InputError, Record
from dsmoe.cell import Cell
from dsmoe.cli import main
from dsmoe.compose import compose_cells
from dsmoe.evaluation.choice import Point, choose
from dsmoe.methods import Trial
from dsmoe.results import Results

STRENGTHS = [0.0, 4.0, 30.0]
DEV = 50


def point(strength: float, target: float, others: float | None) -> Point:
    return Point({"strength": strength}, target, 50, others, 200 if others is not None else 0)


def test_the_best_on_the_target_within_the_margin() -> None:
    points = [point(0, 0.5, 0.0), point(1, 0.6, -0.05), point(4, 0.7, -0.051), point(9, 0.6, 0.0)]
    assert [one.within_margin for one in points] == [True, True, False, True]
    assert choose(points).settings == {"strength": 1}
    assert choose([point(0, 0.5, None), point(1, 0.6, None)]).settings == {"strength": 1}
    assert choose([point(1, 0.6, -0.2), point(2, 0.9, -0.3)]).settings == {"strength": 1}


def record_line(record: Record, split: str) -> str:
    content = {
        "id": record.id,
        "domain": record.domain,
        "question": record.question,
        "options": record.options,
        "answer": record.answer,
        "split": split,
    }
    return json.dumps(content) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint, and two files of records that differ in their test questions alone."""
    folder = tmp_path_factory.mktemp("choice")
    random_model("qwen3_moe").save_pretrained(folder / "model")
    word_tokenizer().save_pretrained(folder / "model")
    for name, seed in (("one", 1), ("other", 2)):
        lines = []
        for domain in ("alpha", "beta"):
            known = random_records(12 + DEV, domain)
            lines += [record_line(record, "discover") for record in known[:12]]
            lines += [record_line(record, "dev") for record in known[12:]]
            lines += [
                record_line(replace(record, id=f"test-{record.id}"), "test")
                for record in random_records(20, domain, seed)
            ]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def overrides(folder: Path, name: str = "one", *more: str) -> list[str]:
    return [
        "model=checkpoint",
        f"model.path={folder}/model",
        "model.threads=1",
        "dataset=records",
        f"dataset.path={folder}/{name}.jsonl",
        "domain=alpha",
        "benchmark=letter",
        "steering.strength=auto",
        f"steering.strength_grid={STRENGTHS}",
        "steering.num_experts=4",
        "steering.random_draws=2",
        "sft.epochs=auto",
        "sft.epochs_grid=[1,2]",
        "sft.rank=2",
        f"paths.results={folder}/{name}",
        *more,
    ]


@pytest.fixture(scope="module")
def found(folder: Path) -> Results:
    """What a comparison with choices on dev finds."""
    methods = "methods=[base,sft,dsmoe,risk_difference,esft,random,other_domain]"
    assert main(["compare", *overrides(folder, "one", methods)]) == 0
    (path,) = (folder / "one" / "default").glob("*/results.json")
    return Results.read(path)


def accuracy(stage: Path) -> float:
    scores = [row["score"] for row in parquet.read_table(stage / "samples.parquet").to_pylist()]
    return sum(scores) / len(scores)


def test_the_curve_is_what_was_answered_on_dev(found: Results, folder: Path) -> None:
    (composed,) = compose_cells(overrides(folder))
    cell = Cell(composed.config)
    steering = composed.config.steering
    base = [accuracy(cell.evaluate(Trial("base", "dev"), d).folder(cell.results)) for d in ("alpha", "beta")]
    assert found.choices["dsmoe"]["base"] == base[0]
    best: tuple[float, float] | None = None
    for strength, point in zip(STRENGTHS, found.choices["dsmoe"]["curve"], strict=True):
        trial = Trial("dsmoe", "dev", replace(steering, strength=strength))
        target, others = (accuracy(cell.evaluate(trial, d).folder(cell.results)) for d in ("alpha", "beta"))
        assert (point["settings"], point["n"], point["n_others"]) == ({"strength": strength}, DEV, DEV)
        assert (point["target"], point["others"]) == (target, pytest.approx(others - base[1]))
        if point["within_margin"] and (best is None or target > best[0]):
            best = target, strength
    assert best is not None
    assert found.choices["dsmoe"]["chosen"] == {"strength": best[1]}


def test_controls_steer_as_chosen_and_papers_as_written(found: Results) -> None:
    chosen = found.choices["dsmoe"]["chosen"]["strength"]
    strengths = {row.method: row.strength for row in found.rows if row.role == "target"}
    assert strengths["dsmoe"] == strengths["random"] == strengths["other_domain"] == chosen
    assert strengths["esft"] == found.choices["esft"]["chosen"]["strength"]
    assert strengths["risk_difference"] == 1.0
    assert set(found.choices) == {"sft", "dsmoe", "esft", "random", "other_domain"}
    assert found.choices["sft"]["chosen"]["epochs"] in (1, 2)
    assert [one.baseline for one in found.comparisons if one.family == "primary"] == ["base", "sft", "other_domain"]
    assert found.specificity is not None
    assert len(found.specificity.draws) == 2


def test_settings_that_are_open_make_a_choice_of_their_own(folder: Path, tmp_path: Path) -> None:
    """The same grid of another setting asks the same candidates, and chooses something else."""
    fixed = ["methods=[base,dsmoe]", "sft.epochs=1", "steering.random_draws=1"]
    strength = ["steering.strength_grid=[1]", "steering.num_experts=4"]
    count = ["steering.strength=1", "steering.num_experts=auto", "steering.num_experts_grid=[4]"]
    for more, chosen in ((strength, {"strength": 1.0}), (count, {"num_experts": 4})):
        assert main(["compare", *overrides(folder, "one", *fixed, *more, f"paths.results={tmp_path}")]) == 0
        path = max(tmp_path.glob("default/*/results.json"), key=lambda path: path.stat().st_mtime_ns)
        assert Results.read(path).choices["dsmoe"]["chosen"] == chosen


def test_a_domain_without_dev_questions_has_no_say_in_a_choice(folder: Path, tmp_path: Path) -> None:
    """A small one may have none: a tenth of three is no question."""
    lines = (folder / "one.jsonl").read_text()
    few = [record_line(replace(record, id=f"few-{record.id}"), "test") for record in random_records(3, "gamma")]
    (folder / "few.jsonl").write_text(lines + "".join(few))
    more = ["methods=[base,dsmoe]", "sft.epochs=1", "steering.random_draws=1"]
    assert main(["compare", *overrides(folder, "few", *more)]) == 0
    (path,) = (folder / "few" / "default").glob("*/results.json")
    results = Results.read(path)
    assert {point["n_others"] for point in results.choices["dsmoe"]["curve"]} == {DEV}
    assert {row.domain for row in results.rows if row.method == "dsmoe"} == {"alpha", "beta", "gamma", "all others"}


def contents(stages: Path, names: Sequence[str]) -> dict[str, bytes]:
    """All that these stages wrote but for when and how long, by their path."""
    return {
        str(path.relative_to(stages)): path.read_bytes()
        for name in names
        for path in sorted((stages / name).rglob("*"))
        if path.is_file() and path.name not in ("status.json", "config.yaml")
    }


def test_other_test_questions_change_nothing_before_the_last_evaluation(found: Results, folder: Path) -> None:
    """Discovery, scores, adapters, dev answers and choices are the same to the bit: none of them saw the test split."""
    methods = "methods=[base,sft,dsmoe,risk_difference,esft,random,other_domain]"
    assert main(["compare", *overrides(folder, "other", methods)]) == 0
    here, there = (folder / name / "stages" for name in ("one", "other"))
    early = ("discover", "score", "fine_tune", "choose")
    assert contents(here, early) == contents(there, early) != {}

    def dev_and_test(stages: Path) -> tuple[set[str], set[str]]:
        """Evaluations by their folder's name: those of dev questions, those of test questions."""
        split: tuple[set[str], set[str]] = set(), set()
        for path in (stages / "evaluate").glob("*/samples.parquet"):
            asked = parquet.read_table(path, columns=["record_id"]).to_pylist()
            split["test" in asked[0]["record_id"]].add(path.parent.name)
        return split

    (dev, test), (other_dev, other_test) = dev_and_test(here), dev_and_test(there)
    assert dev == other_dev != set()
    assert test.isdisjoint(other_test)
    names = [f"evaluate/{name}" for name in sorted(dev)]
    assert contents(here, names) == contents(there, names)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["steering.strength=auto"], "steering.strength: auto chooses on the 20 dev questions of 'alpha'; .* least 50"),
        (["steering.num_experts=auto"], "steering.num_experts: auto chooses on the 20 dev"),
        (["sft.learning_rate=auto", "methods=[base,sft]"], "sft.learning_rate: auto chooses on the 20 dev"),
        (["steering.strength=auto", "steering.strength_grid=[]"], "steering.strength_grid: .* a list of one at least"),
        (["steering.strength=best"], "steering.strength: 'best' is not allowed; .* 'auto'"),
    ],
)
def test_choices_that_cannot_be_made_are_refused(more: list[str], says: str, folder: Path, tmp_path: Path) -> None:
    lines = [
        record_line(record, split)
        for domain in ("alpha", "beta")
        for split, count, seed in (("discover", 5, 0), ("dev", 20, 1), ("test", 5, 2))
        for record in (replace(one, id=f"{split}-{one.id}") for one in random_records(count, domain, seed))
    ]
    (tmp_path / "few.jsonl").write_text("".join(lines))
    base: dict[str, Any] = dict(override.split("=", 1) for override in overrides(folder))
    base |= {"dataset.path": f"{tmp_path}/few.jsonl", "steering.strength": "4", "sft.epochs": "2"}
    base |= dict(override.split("=", 1) for override in more)
    with pytest.raises(InputError) as error:
        Cell(compose_cells([f"{key}={value}" for key, value in base.items()])[0].config)
    assert re.search(says, str(error.value)), error.value
