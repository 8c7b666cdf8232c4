"""The main job end to end: the embedded world and model (briefly trained), one's own files, sweeps, reuse."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
import torch
from conftest import SHARED, random_model, random_records, word_tokenizer
from pyarrow import parquet
from transformers import AutoModelForCausalLM, AutoTokenizer

from dsmoe import ExpertProfile, Record, Steering
from dsmoe.cli import main
from dsmoe.domains.prompts import evaluation_prompt
from dsmoe.domains.records import LETTERS
from dsmoe.results import Results

BRIEF = [
    "model.pretrain.steps=40",
    "model.pretrain.num_layers=2",
    "model.pretrain.num_experts=8",
    "model.pretrain.expert_size=32",
    "model.pretrain.hidden_size=64",
    "steering.num_experts=4",
    "sft.epochs=4",
    "discovery.limit=20",
    "benchmark.limit=24",
    "steering.random_draws=2",
]


def run(capsys: pytest.CaptureFixture[str], results: Path, *arguments: str) -> list[Path]:
    """Run a command; the results.json files that it names, in order."""
    assert main([*arguments, f"paths.results={results}"]) == 0
    return [
        Path(line.removeprefix("results: ")) for line in capsys.readouterr().out.splitlines() if "results: " in line
    ]


def samples(path: Path) -> list[dict[str, Any]]:
    return parquet.read_table(path.with_name("samples.parquet")).to_pylist()


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def made(results: Path, stage: str) -> int:
    return sum(1 for _ in (results / "stages" / stage).glob("*/status.json"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One results folder for all of these tests: later ones reuse what earlier ones made."""
    return tmp_path_factory.mktemp("compare") / "results"


def test_compares_every_method_on_every_domain(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    (path,) = run(capsys, results, "compare", "domain=chemistry", *BRIEF)
    found = Results.read(path)
    domains = {"biology", "chemistry", "computing", "geography", "languages", "mathematics"}
    answered = samples(path)
    assert Counter((s["method"], s["domain"]) for s in answered) == {
        (method, domain): 24 for method in ("base", "sft", "dsmoe", "random") for domain in domains
    }
    for row in found.rows:
        if row.method == "chance":
            assert math.isclose(row.value, 0.25)
        elif row.domain in domains:
            scores = [s["score"] for s in answered if (s["method"], s["domain"]) == (row.method, row.domain)]
            assert row.n == 24
            assert math.isclose(row.value, sum(scores) / 24)
            assert row.role == ("target" if row.domain == "chemistry" else "non_target")
    primary = [(c.method, c.baseline) for c in found.comparisons if c.family == "primary"]
    assert primary == [("dsmoe", "base"), ("dsmoe", "sft")]
    steered = {row.method: (row.strength, row.num_experts, row.mode) for row in found.rows}
    assert steered["dsmoe"] == steered["random"] == (4.0, 4, "logit")
    assert steered["base"] == (None, None, None)
    for row in found.rows:
        change = row.routing_changed
        assert (change is not None) == (row.method in ("dsmoe", "random"))
        assert change is None or 0 < change.changed < change.choices
    pooled = {row.task: row.routing_changed for row in found.rows if row.method == "dsmoe" and row.role == "non_target"}
    total = pooled.pop("non-target")
    assert total is not None
    assert total.changed == sum(change.changed for change in pooled.values() if change is not None)
    assert "of the choices on chemistry" in path.with_name("table.md").read_text()
    assert found.provenance["versions"]["transformers"]
    assert "| dsmoe |" in path.with_name("table.md").read_text()
    assert path.with_name("table.csv").read_text().startswith("method,")


def test_a_sample_is_right_where_the_answer_is_likeliest(results: Path) -> None:
    """The score is recomputed from the log-likelihoods, and these by hand from the base model's logits."""
    (path,) = results.glob("default/*/results.json")
    (checkpoint,) = results.glob("stages/pretrain/*")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    from dsmoe.domains import world

    records = {record.id: record for record in world.records()}
    for sample in samples(path):
        likelihoods = sample["log_likelihoods"]
        assert sample["score"] == float(likelihoods.index(max(likelihoods)) == records[sample["record_id"]].answer)
    for sample in [s for s in samples(path) if s["method"] == "base"][::12]:
        context, continuations = evaluation_prompt(records[sample["record_id"]], "option_text")
        start = len(tokenizer(context).input_ids)
        for continuation, found in zip(continuations, sample["log_likelihoods"], strict=True):
            ids = torch.tensor(tokenizer(context + continuation).input_ids)
            with torch.no_grad():
                log_probabilities = model(ids[None]).logits[0].log_softmax(dim=-1)
            by_hand = sum(float(log_probabilities[at - 1, ids[at]]) for at in range(start, len(ids)))
            assert math.isclose(found, by_hand, abs_tol=1e-3)


def test_every_stage_stands_in_the_journal(results: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    (path,) = (results / "default" / ".logs").glob("*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert (lines[0]["stage"], lines[0]["event"]) == (lines[-1]["stage"], "started") == ("compare", "started")
    finished = [line for line in lines if line["event"] == "finished"]
    made_once = {"pretrain": 1, "discover": 1, "score": 1, "fine_tune": 1, "compare": 1}
    assert Counter(line["stage"] for line in finished) == {**made_once, "evaluate": 25}
    assert len({(line["method"], line["domain"]) for line in finished if line["stage"] == "evaluate"}) == 25
    taken = {line["stage"]: line for line in finished}
    # The model is trained when discovery first wants it.
    assert taken["discover"]["own_seconds"] <= taken["discover"]["seconds"] - taken["pretrain"]["seconds"] + 0.01
    for line in finished:
        assert (line["device"], line["threads"]) == (device, 1)
        if line["stage"] != "compare":
            status = json.loads(next(results.glob(f"stages/*/{line['hash']}/status.json")).read_text())
            assert (status["device"], status["threads"], status["stage"]) == (device, 1, line["stage"])


def test_the_same_command_again_does_nothing(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    before = files(results)
    main(["compare", "domain=chemistry", *BRIEF, f"paths.results={results}"])
    first = capsys.readouterr().out
    main(["compare", "domain=chemistry", *BRIEF, f"paths.results={results}"])
    assert capsys.readouterr().out == first
    assert files(results) == before


def test_a_strength_sweep_trains_and_evaluates_base_and_sft_once(
    capsys: pytest.CaptureFixture[str], results: Path
) -> None:
    paths = run(capsys, results, "compare", "-m", "steering.strength=0,1,4", "domain=chemistry", *BRIEF)
    assert len(paths) == len(set(paths)) == 3
    assert made(results, "pretrain") == made(results, "discover") == made(results, "fine_tune") == 1
    assert made(results, "evaluate") == 6 * (1 + 1 + 3 + 3) + 3  # a second random draw on the target, at each strength
    answers: dict[str, list[Any]] = {}
    for sample in samples(paths[0]):
        answers.setdefault(sample["method"], []).append((sample["doc_hash"], sample["log_likelihoods"]))
    assert answers["dsmoe"] == answers["random"] == answers["base"]
    answers = {}
    for sample in samples(paths[2]):
        answers.setdefault(sample["method"], []).append((sample["doc_hash"], sample["log_likelihoods"]))
    assert answers["dsmoe"] != answers["base"]
    assert answers["dsmoe"] != answers["random"]


def test_another_target_shares_the_base_models_answers(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    before = made(results, "evaluate")
    run(capsys, results, "compare", "domain=biology", "methods=[base,dsmoe]", *BRIEF)
    assert made(results, "evaluate") == before + 6
    assert made(results, "discover") == 2


def test_discover_writes_a_profile_by_the_rule(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    assert main(["discover", "domain=chemistry", "discovery=frequency", *BRIEF, f"paths.results={results}"]) == 0
    output = capsys.readouterr().out
    (line,) = [line for line in output.splitlines() if line.startswith("profile: ")]
    profile = ExpertProfile.load(line.removeprefix("profile: "))
    assert (profile.rule, profile.domain, profile.layers) == ("frequency", "chemistry", (0, 1))
    assert torch.equal(profile.scores, profile.counts.total.double() / profile.counts.total.sum())
    assert made(results, "discover") == 2


def test_evaluate_asks_one_method(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    before = made(results, "evaluate")
    (path,) = run(capsys, results, "evaluate", "domain=chemistry", *BRIEF)
    assert {sample["method"] for sample in samples(path)} == {"base"}
    assert made(results, "evaluate") == before


def test_own_profile_and_own_steering_act_as_those_that_are_discovered(
    capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path
) -> None:
    (path,) = [p for p in results.glob("default/*/results.json") if Results.read(p).config["steering"]["strength"] == 1]
    discovered = [s["log_likelihoods"] for s in samples(path) if s["method"] == "dsmoe"]
    (profile,) = [
        p
        for p in results.glob("stages/score/*/profile.safetensors")
        if ExpertProfile.load(p).settings["seed"] == 0
        and ExpertProfile.load(p).rule == "dsmoe"
        and ExpertProfile.load(p).domain == "chemistry"
    ]
    Steering.from_profile(ExpertProfile.load(profile), 4, 1.0).save(tmp_path / "own.json")
    (own,) = run(
        capsys, results, "compare", "domain=chemistry", "methods=[dsmoe,steering]", "steering.strength=1",
        f"discovery.profile={profile}", f"steering.file={tmp_path / 'own.json'}", *BRIEF,
    )  # fmt: skip
    for method in ("dsmoe", "steering"):
        assert [s["log_likelihoods"] for s in samples(own) if s["method"] == method] == discovered


def test_who_steers_alike_shares_answers_and_keeps_a_name_of_its_own(
    capsys: pytest.CaptureFixture[str], results: Path
) -> None:
    """The other domain's experts are those that `dsmoe` steers where that domain is the target."""
    control = ("domain=biology", "discovery.other_domain=chemistry", "methods=[base,dsmoe,other_domain]")
    (path,) = run(capsys, results, "compare", *control, *BRIEF)
    others = [s["log_likelihoods"] for s in samples(path) if s["method"] == "other_domain"]
    assert {row.method for row in Results.read(path).rows} == {"chance", "base", "dsmoe", "other_domain"}
    before = made(results, "evaluate")
    (path,) = run(capsys, results, "compare", "domain=chemistry", "methods=[base,dsmoe]", *BRIEF)
    assert {row.method for row in Results.read(path).rows} == {"chance", "base", "dsmoe"}
    assert sorted(s["log_likelihoods"] for s in samples(path) if s["method"] == "dsmoe") == sorted(others)
    assert made(results, "evaluate") == before
    twice = ("domain=chemistry", "discovery=frequency", "methods=[base,dsmoe,frequency]")
    (path,) = run(capsys, results, "compare", *twice, *BRIEF)
    assert {row.method for row in Results.read(path).rows} == {"chance", "base", "dsmoe", "frequency"}


# One's own model and questions.


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "model"
    random_model("olmoe").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def write_jsonl(records: Sequence[Record], path: Path) -> None:
    rows = [
        {"id": r.id, "domain": r.domain, "question": r.question, "options": r.options, "answer": LETTERS[r.answer]}
        for r in records
    ]
    path.write_text("\n".join(map(json.dumps, rows)))


def test_own_model_and_questions(capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path) -> None:
    records = random_records(60, "alpha") + random_records(60, "beta") + random_records(60, "gamma")
    write_jsonl(records, tmp_path / "questions.jsonl")
    arguments = [
        "compare", "model=checkpoint", f"model.path={checkpoint}", "dataset=records", "benchmark=letter",
        f"dataset.path={tmp_path / 'questions.jsonl'}", "domain=alpha", "sft.epochs=1", "steering.num_experts=2",
        "benchmark.non_target=[gamma]",
    ]  # fmt: skip
    (path,) = run(capsys, tmp_path / "results", *arguments)
    found = Results.read(path)
    assert {row.domain for row in found.rows if row.role == "non_target"} == {"gamma", "all others"}
    assert {row.n for row in found.rows} == {48}
    assert {comparison.verdict for comparison in found.comparisons} <= {"no evidence", "worse"}
    assert list(tmp_path.glob("results/stages/pretrain")) == []
    # The file's order is no part of the science.
    write_jsonl(records[::-1], tmp_path / "questions.jsonl")
    assert run(capsys, tmp_path / "results", *arguments) == [path]
    # Its content is.
    write_jsonl([*records[1:], *random_records(1, "alpha", seed=9)], tmp_path / "questions.jsonl")
    assert run(capsys, tmp_path / "results", *arguments) != [path]


def test_mmlu_pro_with_the_embedded_model(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    """Real questions, which the embedded model cannot answer: an instrument that finds something here is broken."""
    if not (SHARED / "data" / "mmlu_pro.jsonl.gz").exists():
        pytest.skip("MMLU-Pro is not here")
    (path,) = run(
        capsys, results, "compare", "dataset=mmlu_pro", f"dataset.path={SHARED / 'data' / 'mmlu_pro.jsonl.gz'}",
        "domain=biology", "benchmark.non_target=[math,history]", *BRIEF,
    )  # fmt: skip
    found = Results.read(path)
    chance = {row.domain: row.value for row in found.rows if row.method == "chance"}
    assert 0.09 < chance["biology"] < 0.2
    assert all(comparison.verdict == "no evidence" for comparison in found.comparisons)


def test_the_stock_mmlu_pro_task_on_a_copy_of_its_repository(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    """lm-eval's own YAML, five examples and extraction; only our test split is asked."""
    records = random_records(40, "math", seed=1) + random_records(40, "computer science", seed=2)
    rows = [
        {
            "question_id": number, "question": record.question, "options": list(record.options),
            "answer": LETTERS[record.answer], "answer_index": record.answer, "category": record.domain, "src": "test",
            "cot_content": f"A: Let's think step by step. The answer is ({LETTERS[record.answer]}).",
        }
        for number, record in enumerate(records)
    ]  # fmt: skip
    (tmp_path / "copy" / "data").mkdir(parents=True)
    for split, part in (("test", rows), ("validation", rows[:5] + rows[40:45])):
        parquet.write_table(arrow.Table.from_pylist(part), tmp_path / "copy" / "data" / f"{split}-0.parquet")
    (path,) = run(
        capsys, tmp_path / "results", "compare", "model=checkpoint", f"model.path={checkpoint}", "dataset=mmlu_pro",
        f"dataset.path={tmp_path / 'copy'}", "benchmark=mmlu_pro", "benchmark.max_new_tokens=4", "domain=math",
        "methods=[base,dsmoe]", "steering.num_experts=2", "benchmark.limit=6",
    )  # fmt: skip
    answered = samples(path)
    assert {s["task"] for s in answered} == {"mmlu_pro_math", "mmlu_pro_computer_science"}
    assert all(s["response"] is not None and s["log_likelihoods"] is None for s in answered)
    asked = {method: [s["record_id"] for s in answered if s["method"] == method] for method in ("base", "dsmoe")}
    assert asked["base"] == asked["dsmoe"]
    assert len(set(asked["base"])) == 12
