"""The paper's transfer benchmarks on made-up records of the same fields, and how answers are generated.

Two kinds of tiny models answer: one with random weights, and one whose own generation config makes it say the same in
every answer, so that what lm-eval extracts is known.
"""

import csv
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as arrow
import pytest
import torch
from conftest import CONFIGS, random_model
from lm_eval.api.instance import Instance
from pyarrow import parquet
from scipy.stats import permutation_test
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dsmoe.cell import Cell
from dsmoe.checks import check_inputs
from dsmoe.cli import main
from dsmoe.compose import compose_cells
from dsmoe.config import Config
from dsmoe.domains.records import LETTERS, Record
from dsmoe.evaluation.engine import Engine
from dsmoe.evaluation.engine_model import EngineModel
from dsmoe.evaluation.evaluate import evaluate
from dsmoe.evaluation.samples import Sample, read_samples
from dsmoe.evaluation.tasks import aime
from dsmoe.inputs import Inputs
from dsmoe.methods import Trial
from dsmoe.models.load import LoadedModel
from dsmoe.results import Results

WORDS = ["<pad>", "<eos>", "<unk>", "$", "$7$", "\\boxed{7}", "7", "(A)", "(B)", "Question:", "</think>", "so",
         "system:", "user:", "assistant:", "Answer:", "?"]  # fmt: skip
TEMPLATE = (
    "{% for turn in messages %}{{ turn.role }}: {{ turn.content }} {% endfor %}"
    "{% if enable_thinking %}so {% endif %}{% if add_generation_prompt %}assistant: {% endif %}"
)
DOMAINS = ("Physics", "Chemistry", "Biology")


def tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    """Words between white space are tokens; those that no list has are <unk>."""
    vocabulary = [*WORDS, *(f"word{number}" for number in range(CONFIGS["olmoe"]().vocab_size - len(WORDS)))]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", chat_template=template
    )


def saying(*words: str) -> Any:
    """A model that answers these words, the first one again and again where that is the only one."""
    model = random_model("olmoe")
    ids = [WORDS.index(word) for word in words]
    biases = [[ids[: end + 1], 100.0 * (end + 1)] for end in range(len(ids))]
    model.generation_config.sequence_bias = biases
    return model


def checkpoint(folder: Path, model: Any, template: str | None = None) -> Path:
    model.save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return folder


def words(draw: random.Random, count: int) -> str:
    return " ".join(f"word{draw.randrange(150)}" for _ in range(count))


def gpqa_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [
        {
            "Record ID": f"rec{seed}-{number}",
            "High-level domain": DOMAINS[number % 3],
            "Question": f"{words(draw, 8)} ?",
            "Correct Answer": words(draw, 3),
            **{f"Incorrect Answer {wrong}": words(draw, 3) for wrong in (1, 2, 3)},
            "Canary String": "unused",
        }
        for number in range(count)
    ]


def aime_rows(count: int, names: Sequence[str] = ("ID", "Problem", "Answer"), sevens: int = 4) -> list[dict[str, Any]]:
    draw = random.Random(2)
    values = [(f"2024-{n}", f"{words(draw, 9)} ?", 7 if n < sevens else 100 + n) for n in range(count)]
    return [dict(zip(names, row, strict=True)) for row in values]


def write_jsonl(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclass(frozen=True)
class Place:
    """A folder with models, questions to discover on, and the benchmarks' files."""

    folder: Path

    def command(self, benchmark: str, *more: str, model: str = "random") -> list[str]:
        kind, file = benchmark.split("=")
        given = [
            "model=checkpoint", f"model.path={self.folder / model}", "model.threads=1",
            "dataset=records", f"dataset.path={self.folder / 'records.jsonl'}",
            f"benchmark={kind}", f"benchmark.path={self.folder / file}", "benchmark.max_new_tokens=8",
            "steering.num_experts=2", "methods=[base]",
        ]  # fmt: skip
        changed = {one.partition("=")[0] for one in more}
        return [*(one for one in given if one.partition("=")[0] not in changed), *more]

    def config(self, benchmark: str, *more: str, model: str = "random") -> Config:
        (one,) = compose_cells(self.command(benchmark, *more, model=model))
        return one.config

    def run(
        self, results: Path, benchmark: str, *more: str, model: str = "random"
    ) -> tuple[Results, list[Sample], str]:
        before = set(results.glob("default/*/results.json"))
        command = ["compare", *self.command(benchmark, *more, model=model), f"paths.results={results}"]
        assert main(command) == 0
        (path,) = set(results.glob("default/*/results.json")) - before
        cell = path.parent
        table = (cell / "table.md").read_text()
        return Results.read(cell / "results.json"), read_samples(cell / "samples.parquet"), table


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("benchmarks")
    checkpoint(folder / "random", random_model("olmoe"))
    checkpoint(folder / "chat", random_model("olmoe"), TEMPLATE)
    checkpoint(folder / "A", saying("(A)"))
    seven = random_model("olmoe")
    seven.generation_config.sequence_bias = [[[WORDS.index("\\boxed{7}")], 2.5]]
    with torch.no_grad():  # Experts that matter, so that steering them does.
        for name, weight in seven.named_parameters():
            weight.mul_(20 if "experts" in name else 1)
    checkpoint(folder / "seven", seven)
    checkpoint(folder / "boxed", saying("\\boxed{7}", "<eos>"))
    draw = random.Random(1)
    rows = [
        {
            "domain": domain,
            "question": f"{words(draw, 8)} ?",
            "options": [words(draw, 2) for _ in range(4)],
            "answer": LETTERS[draw.randrange(4)],
        }
        for domain in ("physics", "chemistry", "biology", "math", "law")
        for _ in range(40)
    ]
    write_jsonl(rows, folder / "records.jsonl")
    with (folder / "gpqa.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(gpqa_rows(1)[0]))
        writer.writeheader()
        writer.writerows(gpqa_rows(18))
    write_jsonl(aime_rows(6), folder / "aime24.jsonl")
    later = aime_rows(6, ("id", "problem", "answer"))
    parquet.write_table(
        arrow.Table.from_pylist([{**row, "answer": str(row["answer"])} for row in later]), folder / "aime25.parquet"
    )
    return Place(folder)


# GPQA


def test_gpqa_is_asked_by_domain_what_was_discovered_elsewhere(place: Place, tmp_path: Path) -> None:
    results, samples, table = place.run(tmp_path, "gpqa=gpqa.csv", "domain=physics", "methods=[base,dsmoe]", model="A")
    roles = {row.domain: row.role for row in results.rows}
    assert roles == {
        "physics": "target",
        "biology": "non_target",
        "chemistry": "non_target",
        "all others": "non_target",
    }
    assert results.provenance["questions"] == {"discover": 20, "dev": 20, "test": 18}
    assert results.provenance["discovery"]["dsmoe"]["records"] == 4
    assert {row.value for row in results.rows if row.method == "chance"} == {0.25}
    # The model always says (A): what is right is where our order put the right option first.
    records = {record.id: record for record in Inputs(place.config("gpqa=gpqa.csv", "domain=physics")).splits.test}
    assert len(samples) == 2 * len(records) == 36
    for sample in samples:
        assert sample.response == " ".join(["(A)"] * 8)
        assert (sample.truncated, sample.answered, sample.num_options) == (True, True, 4)
        assert sample.score == (records[sample.record_id].answer == 0)
    assert 0 < sum(sample.score for sample in samples) < 36
    assert {(row.truncated, row.unanswered) for row in results.rows if row.method != "chance"} == {(1.0, 0.0)}
    assert "| base | 100.0 | 0.0 | 100.0 | 0.0 |" in table


def test_options_stand_in_an_order_of_their_own_that_tells_nothing(place: Place, tmp_path: Path) -> None:
    rows = gpqa_rows(600, seed=3)
    right = {row["Record ID"]: row["Correct Answer"] for row in rows}

    def loaded(rows: Sequence[dict[str, str]]) -> tuple[Record, ...]:
        path = write_jsonl(rows, tmp_path / "gpqa.jsonl")
        config = place.config("gpqa=gpqa.csv", "domain=physics", f"benchmark.path={path}")
        return Inputs(config).splits.test

    records = loaded(rows)
    assert all(record.options[record.answer] == right[record.id] for record in records)
    places = Counter(record.answer for record in records)
    assert min(places.values()) > 110
    # Neither the file's order nor which option is right moves any of them.
    moved = [{**row, "Correct Answer": row["Incorrect Answer 2"], "Incorrect Answer 2": row["Correct Answer"]}
             for row in rows[::-1]]  # fmt: skip
    assert {r.id: r.options for r in loaded(moved)} == {r.id: r.options for r in records}


def test_both_data_sets_are_prepared(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", *place.command("gpqa=gpqa.csv", "domain=physics")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["data set records: 200 questions are here", "data set gpqa: 18 questions are here"]


# AIME


@pytest.mark.parametrize("benchmark", ["aime24=aime24.jsonl", "aime25=aime25.parquet"])
def test_aime_answers_are_numbers(benchmark: str, place: Place, tmp_path: Path) -> None:
    results, samples, table = place.run(tmp_path, benchmark, "domain=math", model="boxed")
    name = benchmark.partition("=")[0]
    assert [sample.score for sample in samples] == [float(sample.answer == 7) for sample in samples]
    assert sum(sample.score for sample in samples) == 4
    assert {(sample.response, sample.truncated, sample.answered) for sample in samples} == {("\\boxed{7}", False, True)}
    assert {sample.num_options for sample in samples} == {0}
    assert [(row.method, row.task, row.value, row.n) for row in results.rows] == [
        ("chance", name, 0.0, 6),
        ("base", name, 4 / 6, 6),
    ]
    assert "| base | 0.0 | 0.0 |  |  |" in table


def test_an_answer_that_is_none_is_told(place: Place, tmp_path: Path) -> None:
    results, samples, _ = place.run(tmp_path, "aime24=aime24.jsonl", "domain=math", model="A")
    assert {(sample.truncated, sample.answered) for sample in samples} == {(True, False)}
    assert results.rows[-1].unanswered == 1.0
    found = {"\\boxed{7}": True, "it is $7$": True, " 7 ": True, "$7": False, "seven, not 7": False, "": False}
    assert {response: aime._answered(response, response) for response in found} == found


# Several samples a question, and how they are drawn.

SAMPLED = ("generation.samples=3", "generation.temperature=1.0", "domain=math")


def answered(
    model: Any, config: Config, template: str | None = None, seed: int = 0, log: Callable[[Any], None] | None = None
) -> list[Sample]:
    """The target domain's questions as a model in memory answers them."""
    loaded = LoadedModel(model, tokenizer(template))
    task = Inputs(config).task("test", config.domain)
    if log is None:
        return evaluate(loaded, task, "base", config.benchmark, config.generation, seed)
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: log(kwargs.get("input_ids", args[0] if args else None)), with_kwargs=True
    )
    try:
        return evaluate(loaded, task, "base", config.benchmark, config.generation, seed)
    finally:
        handle.remove()


def test_samples_can_be_made_again_and_differ(place: Place) -> None:
    config, model = place.config("aime24=aime24.jsonl", *SAMPLED), random_model("olmoe")
    torch.manual_seed(5)
    first = answered(model, config)
    state = torch.get_rng_state()
    assert [(sample.doc_id, sample.repeat) for sample in first] == [(d, r) for d in range(6) for r in range(3)]
    assert answered(model, config) == first
    assert torch.equal(torch.get_rng_state(), state)
    for number in range(6):
        assert len({sample.response for sample in first if sample.doc_id == number}) == 3
    assert [one.response for one in answered(model, config, seed=1)] != [one.response for one in first]
    # Not even one answer of another seed's is one of these: samples of two seeds are not the same ones moved on.
    assert {one.response for one in answered(model, config, seed=1)}.isdisjoint(one.response for one in first)


def test_the_settings_of_sampling_are_used(place: Place) -> None:
    model = random_model("olmoe")
    greedy = answered(model, place.config("aime24=aime24.jsonl", "domain=math"))
    one = ("domain=math", "generation.temperature=1.0")
    for narrow in ("generation.top_k=1", "generation.top_p=1.0e-6"):
        sampled = answered(model, place.config("aime24=aime24.jsonl", *one, narrow))
        assert [sample.response for sample in sampled] == [sample.response for sample in greedy]
    assert [s.response for s in answered(model, place.config("aime24=aime24.jsonl", *one))] != [
        sample.response for sample in greedy
    ]


def test_rows_and_comparisons_are_of_questions(place: Place, tmp_path: Path) -> None:
    more = ("methods=[base,dsmoe]", "steering.strength=50", "generation.samples=8")
    results, samples, table = place.run(tmp_path, "aime24=aime24.jsonl", *SAMPLED, *more, model="seven")
    right = {(m, d): [s.score for s in samples if (s.method, s.doc_id) == (m, d)] for m in ("base", "dsmoe")
             for d in range(6)}  # fmt: skip
    assert {len(scores) for scores in right.values()} == {8}
    means = {method: np.array([np.mean(right[method, d]) for d in range(6)]) for method in ("base", "dsmoe")}
    for row in results.rows[1:]:
        assert (row.n, row.samples) == (6, 8)
        assert row.value == pytest.approx(means[row.method].mean())
        assert row.stderr == pytest.approx(means[row.method].std(ddof=1) / 6**0.5)
    (comparison,) = results.comparisons
    differences = means["dsmoe"] - means["base"]
    assert np.any(differences != 0)
    exact = permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert comparison.delta == pytest.approx(differences.mean())
    assert comparison.p_value == pytest.approx(exact.pvalue)
    assert "or its like for groups and samples" in table


def test_what_is_cut_off_is_what_reached_the_limit(place: Place) -> None:
    model = random_model("olmoe")
    biases = {"<eos>": 1.5, "Question:": 1.5, "<unk>": -100.0, "<pad>": -100.0}
    model.generation_config.sequence_bias = [[[WORDS.index(word)], bias] for word, bias in biases.items()]
    config = place.config("aime24=aime24.jsonl", *SAMPLED, "generation.samples=12", "benchmark.max_new_tokens=6")
    samples = answered(model, config)
    # Six words without an end are six words to see; an end, or a stop word, leaves fewer.
    lengths = [len((sample.response or "").split()) for sample in samples]
    assert [sample.truncated for sample in samples] == [length == 6 for length in lengths]
    assert 5 in lengths
    assert 6 in lengths


# The chat template, and thinking.


def test_the_chat_template_gets_the_system_prompt_and_the_arguments(place: Place) -> None:
    model, prompts = random_model("olmoe"), []
    given = ("domain=math", "generation.chat_template=true", "generation.system_prompt=word1 word2")
    for more in ((), ("+generation.template_args.enable_thinking=true",)):
        config = place.config("aime24=aime24.jsonl", *given, *more, "benchmark.batch_size=1", model="chat")
        seen: list[Any] = []
        answered(model, config, TEMPLATE, log=seen.append)
        prompts.append(tokenizer().decode(max(seen, key=lambda ids: ids.shape[1])[0]))
    assert prompts[0].startswith("system: word1 word2 user: Question: word")
    assert prompts[0].endswith("? Answer: assistant:")
    assert prompts[1] == prompts[0].removesuffix("assistant:") + "so assistant:"


def test_examples_are_earlier_turns(place: Place, tmp_path: Path) -> None:
    draw = random.Random(4)
    (tmp_path / "data").mkdir()
    rows = [
        {
            "question_id": number, "question": words(draw, 3), "options": [words(draw, 1) for _ in range(4)],
            "answer": "A", "answer_index": 0, "category": "math", "src": "", "cot_content": "A: The answer is (A).",
        }
        for number in range(12)
    ]  # fmt: skip
    for split, part in (("test", rows), ("validation", rows[:5])):
        parquet.write_table(arrow.Table.from_pylist(part), tmp_path / "data" / f"{split}-0.parquet")
    overrides = [
        "model=checkpoint", f"model.path={place.folder / 'chat'}", "model.threads=1", "dataset=mmlu_pro",
        f"dataset.path={tmp_path}", "benchmark=mmlu_pro", "benchmark.max_new_tokens=2", "benchmark.limit=1",
        "domain=math", "methods=[base]", "generation.chat_template=true",
    ]  # fmt: skip
    (one,) = compose_cells(overrides)
    seen: list[Any] = []
    answered(random_model("olmoe"), one.config, TEMPLATE, log=seen.append)
    prompt = tokenizer().decode(max(seen, key=lambda ids: ids.shape[1])[0]).split()
    assert [prompt.count(role) for role in ("user:", "assistant:")] == [6, 6]


@pytest.mark.parametrize("end", ["</think>", WORDS.index("</think>")])
def test_no_answer_is_looked_for_in_the_thinking(end: str | int, place: Place) -> None:
    says = ("\\boxed{7}", "Question:", "</think>", "so", "<eos>")
    stopped = answered(saying(*says), place.config("aime24=aime24.jsonl", "domain=math"))
    assert {sample.response for sample in stopped} == {"\\boxed{7} "}
    config = place.config("aime24=aime24.jsonl", "domain=math", f"generation.think_end={end!r}")
    samples = answered(saying(*says), config)
    assert {(sample.response, sample.answered, sample.truncated, sample.score) for sample in samples} == {
        ("so", False, False, 0.0)
    }


# What an evaluation depends on.


def test_every_setting_names_another_evaluation_and_the_seed_only_where_it_draws(place: Place) -> None:
    config = place.config("aime24=aime24.jsonl", "domain=math", model="chat")

    def named(seed: int = 0, max_new_tokens: int = 8, **settings: Any) -> str:
        changed = replace(
            config,
            seed=seed,
            benchmark=replace(config.benchmark, max_new_tokens=max_new_tokens),
            generation=replace(config.generation, **settings),
        )
        return Cell(changed).evaluate(Trial("base"), "math").hash

    settings: list[dict[str, Any]] = [
        {}, {"max_new_tokens": 9}, {"system_prompt": "so"}, {"think_end": "so"}, {"chat_template": True},
        {"chat_template": True, "template_args": {"enable_thinking": True}}, {"temperature": 0.5},
        {"temperature": 0.5, "samples": 2}, {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_k": 9},
        {"temperature": 0.5, "seed": 1},
    ]  # fmt: skip
    assert len({named(**one) for one in settings}) == len(settings)
    assert named(seed=1) == named()


# What is refused.


def leak(row: dict[str, Any]) -> dict[str, Any]:
    """A row of GPQA that asks an own question, spaced otherwise, its options turned round."""
    first, *others = row["options"][::-1]
    wrong = {f"Incorrect Answer {number}": option for number, option in enumerate(others, start=1)}
    question = "  ".join(row["question"].upper().split(" "))
    return {**gpqa_rows(1)[0], "Record ID": "stolen", "Question": question, "Correct Answer": first, **wrong}


def test_a_question_that_was_learned_from_is_refused(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = place.config("gpqa=gpqa.csv", "domain=physics")
    rows = [json.loads(line) for line in (place.folder / "records.jsonl").read_text().splitlines()]
    splits = Inputs(config).splits
    seen = {record.question for record in (*splits.discover, *splits.dev)}
    for kept in (True, False):
        row = next(row for row in rows if (row["question"] in seen) is kept)
        path = write_jsonl([*gpqa_rows(6), leak(row)], tmp_path / "gpqa.jsonl")
        command = ["compare", *place.command("gpqa=gpqa.csv", "domain=physics", f"benchmark.path={path}")]
        if not kept:  # The data set's own test split is never seen.
            check_inputs(Inputs(place.config("gpqa=gpqa.csv", "domain=physics", f"benchmark.path={path}")))
            continue
        assert main([*command, f"paths.results={tmp_path / 'results'}"]) == 2
        said = capsys.readouterr().err
        assert "2 leaks between splits" in said
        assert "'stolen' in test share a group" in said
        assert "'stolen' in test share a question" in said
        assert not (tmp_path / "results").exists()


Case = tuple[str, str, tuple[str, ...], tuple[str, ...]]
GPQA, AIME = "gpqa=gpqa.csv", "aime24=aime24.jsonl"
TALK = "generation.chat_template=true"
CASES: list[Case] = [
    ("random", GPQA, ("domain=law",), ("domain: 'law' has no test questions", "biology, chemistry, physics")),
    ("random", GPQA, ("domain=physics", "dataset=gpqa", "dataset.path={files}/gpqa.csv", "methods=[dsmoe]"),
     ("domain: 'physics'", "discover split")),
    ("random", GPQA, ("domain=physics", "benchmark.path={files}/lacking.jsonl"),
     ("lacking.jsonl:1: field 'Incorrect Answer 3' is missing",)),
    ("random", AIME, ("domain=math", "benchmark.path={files}/half.jsonl"), ("half.jsonl:1: answer 1.5 is no whole",)),
    ("random", AIME, ("domain=math", "benchmark.path={files}/empty.jsonl"), ("empty.jsonl: has no records",)),
    ("random", AIME, ("domain=math", "benchmark.path={files}/none.jsonl"), ("none.jsonl: cannot be read",)),
    ("random", AIME, ("domain=math", "benchmark.task=gpqa"), ("benchmark.task: gpqa", "benchmark.source is aime24")),
    ("random", GPQA, ("domain=physics", "benchmark.task=aime"), ("aime24 or aime25", "benchmark.source is gpqa")),
    ("random", AIME, ("domain=math", "benchmark.task=letter", "benchmark.metric=acc"), ("scores options", "has none")),
    ("random", AIME, ("domain=math", "benchmark.source=null"), ("benchmark: path and revision: want source",)),
    ("random", AIME, ("domain=math", "benchmark.max_new_tokens=256"), ("benchmark.max_new_tokens: 256", "256 tokens")),
    ("random", AIME, ("domain=math", "generation.samples=4"), ("generation: samples is 4", "temperature 0")),
    ("random", AIME, ("domain=math", "generation.top_p=0.9"), ("generation: top_p is 0.9", "temperature 0")),
    ("random", AIME, ("domain=math", "+generation.template_args.effort=high"), ("generation: template_args",)),
    ("random", AIME, ("domain=math", "generation.template_args.effort=high"), ("+generation.template_args.effort",)),
    ("random", AIME, ("domain=math", TALK), ("generation.chat_template: checkpoint has no chat template",)),
    ("chat", AIME, ("domain=math", TALK, "+generation.template_args.efort=high"), ("template_args.efort", "not know")),
    ("mute", AIME, ("domain=math", TALK, "generation.system_prompt=so"), ("generation.system_prompt", "leaves it out")),
    ("strict", AIME, ("domain=math", TALK, "generation.system_prompt=so"), ("refuses what it is given: no system",)),
    ("random", GPQA, ("domain=law", "benchmark=letter", "benchmark.path=null", "generation.temperature=1.0"),
     ("generation.temperature: benchmark.task=letter generates nothing", "aime, gpqa, mmlu_pro")),
]  # fmt: skip


@pytest.fixture(scope="module")
def files(place: Place) -> Path:
    folder = place.folder
    lacking = {name: value for name, value in gpqa_rows(1)[0].items() if name != "Incorrect Answer 3"}
    write_jsonl([lacking], folder / "lacking.jsonl")
    write_jsonl([{**aime_rows(1)[0], "Answer": 1.5}], folder / "half.jsonl")
    write_jsonl([], folder / "empty.jsonl")
    turns = "{% for turn in messages %}{% if turn.role == 'system' %}SYSTEM{% endif %}{{ turn.content }}{% endfor %}"
    for name, change in (("mute", "{{ turn.content if turn.role == 'user' }}"), ("strict", "{{ turn.content }}")):
        template = turns.replace("{{ turn.content }}", change)
        instead = "{{ raise_exception('no system') }}" if name == "strict" else ""
        checkpoint(folder / name, random_model("olmoe"), template.replace("SYSTEM", instead))
    return folder


@pytest.mark.parametrize(("model", "benchmark", "more", "fragments"), CASES)
def test_what_cannot_be_asked_is_refused_in_one_line(
    model: str,
    benchmark: str,
    more: tuple[str, ...],
    fragments: tuple[str, ...],
    place: Place,
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes = [one.format(files=files) if "{files}" in one else one for one in more]
    command = ["compare", *place.command(benchmark, *changes, model=model), f"paths.results={tmp_path / 'results'}"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert [fragment for fragment in fragments if fragment not in err] == []
    assert list(tmp_path.iterdir()) == []


class StandIn:
    """In place of an engine of vLLM that has room for eight tokens, a word each."""

    max_length = 8

    def call(self, method: str, *arguments: Any, progress: Any = None) -> Any:
        if method == "longer_than":
            room, texts = arguments
            return sum(len(text.split()) > room for text in texts)
        return [(-1.0, False) if method == "loglikelihood" else ("yes", False) for _ in arguments[0]]


def test_prompts_that_an_engine_cuts_off_are_told(caplog: pytest.LogCaptureFixture) -> None:
    model = EngineModel(cast(Engine, StandIn()), lambda done, total: None)

    def told(kind: Any, second: Any) -> list[str]:
        caplog.clear()
        asked = [Instance(kind, {}, ("word " * words, second), 0) for words in (4, 5, 6, 7, 8)]
        getattr(model, kind)(asked)
        return [record.getMessage() for record in caplog.records]

    words = "{} of 5 prompts are longer than the model's context and lose their start"
    assert told("loglikelihood", "yes") == [words.format(2)]
    assert told("generate_until", {"max_gen_toks": 3}) == [words.format(3)]
    assert told("generate_until", {"max_gen_toks": 0}) == []
