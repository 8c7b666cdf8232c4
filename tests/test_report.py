"""`dsmoe report`: the page says what results.json says, adjusts again over its cells, and trusts no text."""

import csv
import hashlib
import html.parser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import random_model, random_records, word_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from dsmoe.cli import main
from dsmoe.compose import compose_cells
from dsmoe.content import TRANSPORT
from dsmoe.report import kept
from dsmoe.report.repeat import command
from dsmoe.report.table import numbers
from dsmoe.results import Results

EVIL = '<script>document.title="owned"</script><img src=x onerror=alert(1)> & "quotes"'
Output = pytest.CaptureFixture[str]


class Page(html.parser.HTMLParser):
    """What a browser would see: tags, the text of the body, the cells of every table, images."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._cell = False
        self._code = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        if tag == "img":
            self.images.append(found)
        for name in ("src", "href", "srcset", "action", "data"):
            if (target := found.get(name)) is not None:
                self.links.append(target)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True
        elif tag in ("style", "script"):
            self._code = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False
        elif tag == self._code:
            self._code = ""

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.text += data
            if self._cell:
                self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two strengths and a cell that chooses its own, on a tiny model, with a question that bites."""
    folder = tmp_path_factory.mktemp("report")
    model = random_model("olmoe")
    for name, weights in model.named_parameters():
        if "experts" in name:  # So that it matters which of them are chosen.
            weights.data.mul_(10)
    model.save_pretrained(folder / "model")
    word_tokenizer().save_pretrained(folder / "model")
    with open(folder / "questions.jsonl", "w") as file:
        for record in random_records(320, "alpha") + random_records(120, "beta") + random_records(120, "gamma"):
            question = f"{EVIL} {record.question}"
            row = {"domain": record.domain, "question": question, "options": record.options, "answer": record.answer}
            print(json.dumps(row), file=file)
    common = [
        "model=checkpoint", f"model.path={folder / 'model'}", "model.name=own", "dataset=records", "domain=alpha",
        f"dataset.path={folder / 'questions.jsonl'}", "benchmark=option_text", "benchmark.limit=60",
        "methods=[base,dsmoe,random,other_domain]", "steering.num_experts=9", "steering.random_draws=3",
        "dataset.splits.discover=0.1", "dataset.splits.dev=0.2", "dataset.splits.test=0.7",
        f"paths.results={folder / 'results'}",
    ]  # fmt: skip
    assert main(["compare", "-m", "steering.strength=9,999", "study=sweep", *common]) == 0
    assert main(["compare", "steering.strength=auto", "study=chosen", *common]) == 0
    assert main(["compare", "steering.strength=999", "study=normed", "benchmark.metric=acc_norm", *common]) == 0
    return folder / "results"


@pytest.fixture
def results(compared: Path, tmp_path: Path) -> Path:
    """A copy, to be changed at will."""
    shutil.copytree(compared, tmp_path / "results")
    return tmp_path / "results"


def report(results: Path, study: str = "sweep") -> Page:
    assert main(["report", f"study={study}", f"paths.results={results}"]) == 0
    return Page((results / study / "report" / "index.html").read_text(encoding="utf-8"))


def cells(results: Path, study: str = "sweep") -> list[Results]:
    return [Results.read(path) for path in sorted(results.glob(f"{study}/*/results.json"))]


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def by_hand(p_values: list[float]) -> list[float]:
    """Holm: the k-th smallest of m times m - k, never below one that is smaller; at most 1."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    return [
        min(1.0, max((len(p_values) - rank) * p_values[at] for rank, at in enumerate(order[: order.index(own) + 1])))
        for own in range(len(p_values))
    ]


def test_the_page_holds_the_numbers_of_each_cell(results: Path) -> None:
    page = report(results)
    for cell in cells(results):
        for record in numbers(cell):
            change = f"{record['target_delta']} [{record['target_ci_low']}, {record['target_ci_high']}]"
            wanted = [
                record["method"],
                " ± ".join(filter(None, (record["target_accuracy"], record["target_stderr"]))),
                change.replace("-", "−") if record["target_delta"] else "",
                record["target_p_adjusted"],
            ]
            assert any(line[:4] == wanted for table in page.tables for line in table), wanted
        for row in (row for row in cell.rows if row.domain in ("beta", "gamma")):
            lines = [line for table in page.tables for line in table if line[:2] == [row.domain, str(row.n)]]
            assert any(f"{100 * row.value:.1f}" in line for line in lines)


def test_p_values_are_adjusted_again_over_the_report(results: Path) -> None:
    for at, path in enumerate(sorted(results.glob("sweep/*/results.json"))):
        content = json.loads(path.read_text())
        tests = [one for one in content["comparisons"] if one["family"] == "primary"]
        for number, one in enumerate(tests):
            one.update(p_value=0.011 + 0.002 * at + 0.02 * number, p_adjusted=0.022 + 0.02 * at, verdict="better")
            one.update(delta=0.2, ci_low=0.1, ci_high=0.3)
        path.write_text(json.dumps(content))
    page, lines = report(results), read_csv(results / "sweep" / "report" / "tables" / "primary.csv")
    assert len(lines) == 4
    adjusted = by_hand([float(line["p_value"]) for line in lines])
    assert [float(line["p_adjusted_in_report"]) for line in lines] == pytest.approx(adjusted)
    assert [line["verdict_in_report"] for line in lines] == ["better" if p < 0.05 else "no evidence" for p in adjusted]
    assert {line["verdict_in_report"] for line in lines} == {"better", "no evidence"}
    assert {line["verdict_in_cell"] for line in lines} == {"better"}
    (overview,) = [table for table in page.tables if table[0][0] == "cell"]
    shown = [dict(zip(overview[0], line, strict=True)) for line in overview[1:]]
    against_base = {line["cell"][:8]: line for line in lines if line["baseline"] == "base"}
    assert {line["cell"] for line in shown} == set(against_base)
    for line in shown:
        assert line["p, report"] == f"{float(against_base[line['cell']]['p_adjusted_in_report']):.3f}"
        assert line["p, cell"] == f"{float(against_base[line['cell']]['p_adjusted_in_cell']):.3f}"
    assert "Yes" in page.text
    assert "better in 2 of 2 cells, p adjusted over all 4 primary comparisons of this report" in page.text


def test_a_report_of_one_cell_answers_by_its_own_p_values(results: Path) -> None:
    page = report(results, study="chosen")
    (cell,) = cells(results, "chosen")
    lines = read_csv(results / "chosen" / "report" / "tables" / "primary.csv")
    assert [float(line["p_adjusted_in_report"]) for line in lines] == pytest.approx(
        [one.p_adjusted for one in cell.comparisons if one.family == "primary"]
    )
    assert not any(table[0][0] == "cell" for table in page.tables)
    (found,) = [one for one in cell.comparisons if (one.method, one.baseline, one.role) == ("dsmoe", "base", "target")]
    words = {"better": "Yes", "worse": "It harms", "no evidence": "No evidence"}
    assert words[found.verdict] in page.text
    assert f"{100 * found.delta:+z.1f}".replace("-", "−") + " points" in page.text


def test_what_would_have_been_seen_is_told_as_it_was_adjusted(results: Path) -> None:
    for at, path in enumerate(sorted(results.glob("sweep/*/results.json"))):
        content = json.loads(path.read_text())
        content["config"]["model"]["name"] = f"model {at}"
        for one in content["comparisons"]:
            one.update(p_value=0.9, p_adjusted=0.9, verdict="no evidence", smallest_visible_effect=(0.1234, 1.0)[at])
        path.write_text(json.dumps(content))
    page = report(results)
    seen = "an effect of 12.3 points would have been seen with power 0.8"
    assert f"; {seen}, by p values adjusted within the cell alone; against" in page.text
    assert page.text.count(f"{seen}, by p values") == 1
    assert page.text.count("; 60 questions are too few to see any effect with power 0.8; against") == 1
    assert "100.0 points" not in page.text
    shutil.rmtree(sorted(results.glob("sweep/*/results.json"))[1].parent)
    assert f"; {seen}; against" in report(results).text


def test_figures_are_embedded_with_words_and_lie_beside_with_their_numbers(results: Path) -> None:
    page = report(results, study="sweep")
    folder = results / "sweep" / "report" / "figures"
    names = {path.stem for path in folder.iterdir()}
    ids = [cell.cell[:8] for cell in cells(results)]
    assert names == {"strength", "tradeoff", "cells"} | {
        f"{kind}-{cell}" for kind in ("methods", "draws", "experts") for cell in ids
    }
    assert {path.name for path in folder.iterdir()} == {f"{n}.{kind}" for n in names for kind in ("svg", "png", "csv")}
    assert len(page.images) == len(names)
    assert all(image["alt"] and str(image["src"]).startswith("data:image/svg+xml;base64,") for image in page.images)
    assert "prefers-color-scheme: dark" in (folder / "strength.svg").read_text()
    drawn = {
        (line["method"], line["role"], float(line["strength"])): line for line in read_csv(folder / "strength.csv")
    }
    for cell in cells(results):
        for row in (row for row in cell.rows if row.role == "target" and row.method != "chance"):
            line = drawn[row.method, "target", cell.config["steering"]["strength"]]
            assert (float(line["accuracy"]), float(line["stderr"])) == (row.value, row.stderr)


def test_the_curve_on_dev_is_drawn_with_what_was_chosen(results: Path) -> None:
    report(results, study="chosen")
    chosen = read_csv(results / "chosen" / "report" / "figures" / "dev.csv")
    (cell,) = cells(results, "chosen")
    assert [float(line["value"]) for line in chosen if line["chosen"] == "True"] == [
        cell.choices["dsmoe"]["chosen"]["strength"]
    ]
    assert [float(line["accuracy"]) for line in chosen] == [p["target"] for p in cell.choices["dsmoe"]["curve"]]


@pytest.mark.parametrize("study", ["sweep", "normed"])
def test_questions_that_flipped_are_shown_with_their_text(results: Path, study: str) -> None:
    page = report(results, study)
    for cell in cells(results, study):
        folder = results / study / cell.cell
        right = {
            method: {s["record_id"] for s in samples if s["method"] == method and s["score"] == 1}
            for samples in [parquet.read_table(folder / "samples.parquet").to_pylist()]
            for method in ("base", "dsmoe")
        }
        texts = {question.record_id: question for question in kept.read_questions(folder / "questions.parquet")}
        lines = read_csv(results / study / "report" / "tables" / f"flips-{cell.cell[:8]}.csv")
        against_base = [line for line in lines if line["baseline"] == "base"]
        gained = {line["record_id"] for line in against_base if line["gained"] == "True"}
        lost = {line["record_id"] for line in against_base if line["gained"] == "False"}
        assert gained == right["dsmoe"] - right["base"]
        assert lost == right["base"] - right["dsmoe"]
        assert gained | lost
        for line in against_base:
            assert line["question"] == texts[line["record_id"]].question
            assert (line["answer"] == line["right"]) == (line["gained"] == "True")
        for one in cell.comparisons:
            if one.family == "primary":
                assert f"dsmoe against {one.baseline} on alpha: {one.gained} gained, {one.lost} lost" in page.text
    flips = [table for table in page.tables if table[0][0] == "question"]
    assert all(len(table) <= 11 for table in flips)
    assert any(EVIL in line[0] for table in flips for line in table)


def test_dollars_in_a_name_are_no_mathematics(results: Path) -> None:
    for path in results.glob("sweep/*/results.json"):
        edit(path, lambda content: content["config"]["model"].update(name=r"own $x_$ or $\frac$"))
    report(results)
    assert r"own $x_$ or $\frac$" in (results / "sweep" / "report" / "figures" / "tradeoff.svg").read_text()


def test_texts_are_never_taken_for_markup(results: Path) -> None:
    for path in results.glob("sweep/*/results.json"):
        edit(path, lambda content: content["config"]["model"].update(name=EVIL))
    page = report(results)
    assert EVIL in page.text
    assert page.tags.count("script") == 1
    assert all(link.startswith(("data:", "#", "tables/", "figures/")) for link in page.links)


def test_every_expert_that_is_steered_is_kept_with_its_score(results: Path) -> None:
    for cell in cells(results):
        folder = results / "sweep" / cell.cell
        experts = kept.read_experts(folder / "experts.parquet")
        for method in ("dsmoe", "random", "other_domain"):
            own = [one for one in experts if one.method == method]
            assert len(own) == 3 * 8
            steered: dict[str, list[int]] = {}
            for one in own:
                if one.steered:
                    steered.setdefault(str(one.layer), []).append(one.expert)
            assert steered == json.loads((folder / f"steering-{method}.json").read_text())["experts"]
        of_dsmoe = sorted((one for one in experts if one.method == "dsmoe"), key=lambda one: -(one.score or 0.0))
        assert all(one.steered for one in of_dsmoe[:9])


def test_it_is_made_again_with_the_same_bytes_in_the_place_of_the_older(results: Path) -> None:
    report(results)
    folder = results / "sweep" / "report"
    before, inode = digests(folder), (folder / "index.html").stat().st_ino
    report(results)
    assert digests(folder) == before
    assert (folder / "index.html").stat().st_ino != inode
    assert sorted(path.name for path in folder.parent.iterdir() if "report" in path.name) == ["report"]


def no_listing(folder: Path) -> None:
    """As the first version wrote it."""
    edit(folder / "report.json", lambda content: content.pop("files"))


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda folder: (folder / "figures" / "photo.png").write_text("years of work"), "figures/photo.png"),
        (lambda folder: (folder / "tables" / "raw").mkdir(), "tables/raw"),
        (lambda folder: (folder / "report.json").unlink(), "figures"),
        (lambda folder: (folder / "report.json").write_text("[]"), "figures"),
        (no_listing, "figures"),
    ],
)
def test_what_the_report_did_not_write_is_never_replaced(
    results: Path, capsys: Output, change: Callable[[Path], None], first: str
) -> None:
    report(results)
    change(folder := results / "sweep" / "report")
    before = digests(folder)
    capsys.readouterr()
    assert main(["report", "study=sweep", f"paths.results={results}"]) == 2
    error = capsys.readouterr().err
    assert f"report holds {first!r}, which no report.json in it lists" in error
    assert error.count("\n") == 1
    assert digests(folder) == before


def test_several_studies_make_one_report_in_a_folder_of_ones_own(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "paper"
    arguments = ["report", "-m", "study=sweep,chosen", f"paths.results={results}", f"paths.report={folder}"]
    assert main(arguments) == 0
    page = Page((folder / "index.html").read_text())
    (overview,) = [table for table in page.tables if table[0][0] == "cell"]
    assert {line[0] for line in overview[1:]} == {
        path.parent.name[:8] for study in ("sweep", "chosen") for path in results.glob(f"{study}/*/results.json")
    }
    assert not (results / "sweep" / "report").exists()


def test_a_cell_of_two_studies_counts_once(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "sweep", results / "again")
    whole, folder = report(results), tmp_path / "paper"
    assert main(["report", "-m", "study=sweep,again", f"paths.results={results}", f"paths.report={folder}"]) == 0
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    assert page.tables == whole.tables
    primary = [place / "tables" / "primary.csv" for place in (folder, results / "sweep" / "report")]
    assert len({path.read_text() for path in primary}) == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("study=none",), "holds no finished cell"),
        (("study=sweep", "paths.report={tmp}/mine"), "mine holds 'thesis.tex', which no report.json in it lists"),
        (("study=sweep", "paths.report={tmp}/file/x"), "file is not a folder"),
        (("study=sweep", "paths.report={tmp}/file"), "is there already and is no empty folder"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    results: Path, tmp_path: Path, capsys: Output, overrides: tuple[str, ...], words: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    before = digests(tmp_path)
    given = [override.format(tmp=tmp_path) for override in overrides]
    assert main(["report", f"paths.results={results}", *given]) == 2
    assert words in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert digests(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(results: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    arguments = [sys.executable, "-m", "dsmoe", "report", "study=sweep", f"paths.results={results}"]
    dropped = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
    found = subprocess.run(
        [*dropped, *arguments, f"paths.report={closed / 'report'}"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, list(closed.iterdir())) == (2, [])
    assert re.search(r"paths\.report: .* cannot be made: nothing may be written to .*closed$", found.stderr.strip())


def test_an_analysis_of_the_same_weights_is_shown_and_no_other(results: Path) -> None:
    (first, *_) = cells(results)
    model = first.provenance["model"]
    for name, weights in (("ours", model["weights"]), ("theirs", {"content": "0"})):
        folder = results / "stages" / "analyze" / name
        folder.mkdir(parents=True)
        config = {
            "model": {**model, "weights": weights, "threads": 64},
            "passages": f"passages of {name}",
        }
        (folder / "config.yaml").write_text(json.dumps({"config": config}))
        (folder / "status.json").write_text("{}")
        (folder / "analysis.md").write_text(f"# Heading\n\n- Experts of {name} {EVIL}\n\n| table |\n")
        (folder / "overlap.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>')
    page = report(results)
    assert f"Experts of ours {EVIL}" in page.text
    assert "passages of ours" in page.text
    assert "| table |" not in page.text
    assert "theirs" not in page.text
    assert any(image["alt"] == "Analysis of own: overlap" for image in page.images)


def test_cells_without_others_or_dsmoe_have_a_report_too(compared: Path, tmp_path: Path) -> None:
    for path in compared.glob("sweep/*/results.json"):
        shutil.copytree(path.parent, tmp_path / "few" / path.parent.name)
        for name in ("questions.parquet", "experts.parquet"):
            (tmp_path / "few" / path.parent.name / name).unlink()

        def bare(content: dict[str, Any]) -> None:
            content["rows"] = [one for one in content["rows"] if one["role"] == "target" and one["method"] == "base"]
            content.update(comparisons=[], specificity=None)

        edit(tmp_path / "few" / path.parent.name / "results.json", bare)
    page = report(tmp_path, study="few")
    assert "No cell of this model and target compares dsmoe with base." in page.text


TEXTS = st.text(st.sampled_from("'\"\\${}a1 ,.:=~[()é\n") | st.characters(codec="utf-8"), min_size=1).filter(
    lambda text: text != "???" and "\0" not in text  # A value that is still missing, and what no command can hold.
)
COMMANDS = [
    [],
    ["model=planted", "steering.strength=19"],
    ["model=planted", "discovery=dsmoe", "methods=[base,dsmoe]", "seed=3"],
    ["model=olmoe", "dataset=mmlu_pro", "benchmark=letter", "domain=computer science", "steering=gate"],
    ["dataset=records", "dataset.path=it's here/a,b.jsonl", "steering.layers=[0,1]", "steering.strength=auto"],
    ["+discovery.markers.Hmm=0.5", "steering.num_experts=0.02", "sft.learning_rate=auto", "model.name='12'"],
    ["model=gpt_oss_20b", "dataset=mmlu_pro", "benchmark=gpqa", "domain=physics", "study=x", "model.threads=4"],
]


def composed(lines: list[str]) -> dict[str, Any]:
    """What results keep of the config that the overrides make."""
    (one,) = compose_cells(lines)
    content = {key: value for key, value in asdict(one.config).items() if key not in TRANSPORT}
    kept: dict[str, Any] = json.loads(json.dumps(content))
    return kept


@pytest.mark.parametrize("overrides", COMMANDS, ids=str)
def test_the_command_makes_the_same_config(overrides: list[str]) -> None:
    quoted = [one.replace("it's here/a,b.jsonl", "'it\\'s here/a,b.jsonl'") for one in overrides]
    wanted = composed(quoted)
    program, verb, *found = shlex.split(command(wanted))
    assert (program, verb) == ("dsmoe", "compare")
    assert composed(found) == wanted
    assert len(found) <= len(overrides) + 1
    assert len(command(wanted)) < 300


@settings(deadline=None, max_examples=15)
@given(domain=TEXTS, others=st.lists(TEXTS, min_size=1, max_size=8))
@example("café", ["True", "1_0", "NULL"])
@example("a\\b", ["c\\", "it\\'s", "\\\\"])
@example("${seed}", ["\\${seed}\\", "$${", "\\\\${a}\\'"])
def test_the_command_says_any_text_as_it_is(domain: str, others: list[str]) -> None:
    wanted = composed([])
    wanted["domain"] = domain
    wanted["benchmark"]["non_target"] = others
    _, _, *found = shlex.split(command(wanted))
    assert composed(found) == wanted


def test_no_model_library_is_imported_on_the_way(results: Path) -> None:
    code = (
        "import sys; from dsmoe.cli import main; "
        f"status = main(['report', 'study=sweep', 'paths.results={results}']); "
        "print(status, sorted({'torch', 'transformers', 'lm_eval', 'wandb', 'datasets'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "0 []"
