"""Tables: the same numbers in three formats, within 120 columns, and the primary family in words."""

import csv
import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from dsmoe.errors import InputError
from dsmoe.report.sentences import sentences
from dsmoe.report.table import csv_text, markdown, numbers, rich_table
from dsmoe.results import Comparison, Harm, Results, RoutingChange, Row, Specificity


def comparison(method: str, baseline: str, **fields: object) -> Comparison:
    target = Comparison(
        method=method,
        baseline=baseline,
        task="task_chemistry",
        domain="chemistry",
        role="target",
        n=250,
        delta=-0.012,
        ci_low=-0.04,
        ci_high=0.015,
        p_value=0.2,
        p_adjusted=0.41,
        groups=200,
        gained=10,
        lost=13,
        verdict="no evidence",
        family="primary",
        smallest_visible_effect=0.051,
    )
    return replace(target, **fields)  # type: ignore[arg-type]


def results() -> Results:
    rows, comparisons = [], []
    for method, accuracy in (("chance", 0.1), ("base", 0.424), ("sft", 0.436), ("dsmoe", 0.424), ("other_domain", 1.0)):
        error = 0.0 if method == "chance" else 0.0313
        rows += [
            Row(method, "task_chemistry", "chemistry", "target", "acc", accuracy, error, 250),
            Row(method, "task_biology", "biology", "non_target", "acc", accuracy - 0.05, error, 400),
            Row(method, "task_law", "law | order", "non_target", "acc", accuracy - 0.1, error, 200),
            Row(method, "non-target", "all others", "non_target", "acc", accuracy - 0.0667, error, 600),
        ]
        if method in ("sft", "dsmoe", "other_domain"):
            pool = {"task": None, "domain": None, "role": "non_target", "n": 600, "family": "secondary"}
            wide = {"delta": -0.1234, "ci_low": -0.1432, "ci_high": -0.1051, "p_adjusted": 0.00012}
            harm = Harm(0.05, -0.14, "non-inferior")
            comparisons += [
                comparison(method, "base", delta=-0.016, family="primary" if method == "dsmoe" else "secondary"),
                comparison(method, "base", **pool, **wide, harm=harm, verdict="worse"),
            ]
    comparisons.append(comparison("dsmoe", "sft"))
    return Results(cell="3f2a", config={}, provenance={}, rows=tuple(rows), comparisons=tuple(comparisons))


def terminal(of: Results, width: int = 120) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width)
    console.print(rich_table(of))
    return file.getvalue()


def figures(text: str) -> list[str]:
    return re.findall(r"[+-]?\d+\.\d+", text.replace("\N{MINUS SIGN}", "-"))


def test_a_line_of_the_terminal_is_whole() -> None:
    lines = [line.strip() for line in terminal(results()).splitlines()]
    assert "target: chemistry (n = 250), others: 2 domains (n = 600)" in lines
    dsmoe = next(line for line in lines if line.startswith("dsmoe "))
    assert " ".join(dsmoe.replace("\N{MINUS SIGN}", "-").split()) == (
        "dsmoe 42.4 ± 3.1 -1.6 [-4.0, +1.5] 0.410 no evidence (5.1) 35.7 ± 3.1 -12.3 [-14.3, -10.5] non-inferior"
    )
    law = next(line for line in lines if line.startswith("law"))
    assert " ".join(law.split()) == "law | order 200 0.0 32.4 33.6 32.4 90.0"


def test_questions_too_few_to_see_any_effect_have_no_smallest_one() -> None:
    few = replace(
        results(), comparisons=tuple(replace(one, smallest_visible_effect=1.0) for one in results().comparisons)
    )
    assert "no evidence (none)" in terminal(few)
    assert "| no evidence (none) |" in markdown(few)
    assert "100.0)" not in markdown(few)
    assert numbers(few)[3]["target_visible"] == "none"


def test_the_terminal_needs_120_columns_and_no_more() -> None:
    lines = terminal(results()).splitlines()
    assert max(len(line) for line in lines) <= 120
    # No cell is folded: a wider terminal shows the same lines, up to the sentences.
    wide = terminal(results(), width=400).splitlines()
    end = next(index for index, line in enumerate(wide) if " on chemistry: " in line)
    assert [line.rstrip() for line in lines[:end]] == [line.rstrip() for line in wide[:end]]


def test_the_three_formats_show_the_same_numbers() -> None:
    text, table = markdown(results()), terminal(results(), width=400)
    assert figures(text) == figures(table)
    for record in csv.DictReader(io.StringIO(csv_text(results()))):
        line = next(line for line in text.splitlines() if line.startswith(f"| {record['method']} |"))
        names = ("accuracy", "stderr", "delta", "ci_low", "ci_high")
        shown = [record[f"target_{name}"] for name in names]
        shown += [record["target_p_adjusted"], record["target_visible"]]
        shown += [record[f"non_target_{name}"] for name in names]
        assert figures(line) == [cell for cell in shown if cell]


def test_csv_is_one_line_a_method_and_parses() -> None:
    records = list(csv.DictReader(io.StringIO(csv_text(results()))))
    assert records == numbers(results())
    assert [record["method"] for record in records] == ["chance", "base", "sft", "dsmoe", "other_domain"]
    dsmoe = records[3]
    assert float(dsmoe["non_target_delta"]) == -12.3
    assert (dsmoe["non_target_p_adjusted"], dsmoe["non_target_verdict"]) == ("<0.001", "worse")
    assert (dsmoe["non_target_harm"], dsmoe["non_target_harm_bound"]) == ("non-inferior", "-14.0")
    assert (dsmoe["accuracy_task_biology"], dsmoe["accuracy_task_law"]) == ("37.4", "32.4")
    assert (records[0]["target_accuracy"], records[0]["target_stderr"], records[1]["target_delta"]) == ("10.0", "", "")


def test_the_primary_family_in_words() -> None:
    minus = "\N{MINUS SIGN}"
    expected = (
        f"dsmoe {minus} sft on chemistry: {minus}1.2 points [{minus}4.0, +1.5], p = 0.410 (Holm), no evidence; "
        "an effect of 5.1 points would have been seen with power 0.8"
    )
    assert [sentence.split(" on ")[0] for sentence in sentences(results())] == [
        f"dsmoe {minus} base",
        f"dsmoe {minus} sft",
    ]
    assert sentences(results())[1] == expected
    assert f"- {expected}\n" in markdown(results())
    assert expected in " ".join(terminal(results()).split())


def test_what_steering_did_to_the_routing_in_words() -> None:
    changes = {"target": RoutingChange(1000, 123), "non_target": RoutingChange(8, 1)}
    steered = [
        replace(row, strength=4.0, num_experts=8, mode="logit", routing_changed=changes[row.role])
        if row.method == "dsmoe"
        else row
        for row in results().rows
    ]
    assert sentences(replace(results(), rows=tuple(steered)))[-1] == (
        "dsmoe steers 8 experts (mode logit, strength 4); in their layers it changed 12.3% of the choices on "
        "chemistry, 12.5% of the choices on all others"
    )


def test_the_rank_among_random_draws_in_words() -> None:
    found = replace(results(), specificity=Specificity(0.424, (0.3, 0.424, 0.5, 0.2), above=2))
    assert sentences(found)[2] == (
        "dsmoe on chemistry: 42.4% right, above 2 of 4 draws of as many random experts in each layer (20.0 to 50.0%)"
    )


def test_what_was_chosen_on_dev_in_words() -> None:
    point = {"settings": {"strength": 9.0}, "target": 0.5, "n": 70, "others": 0.0, "n_others": 9, "within_margin": True}
    choice = {"method": "dsmoe", "chosen": {"strength": 9.0}, "base": 0.4, "curve": [point, {**point, "settings": {}}]}
    found = sentences(replace(results(), choices={"dsmoe": choice, "random": choice}))
    words = "chosen on dev among 2{} (50.0% of 70 questions right, base 40.0%)"
    assert found[2:] == [
        f"dsmoe: strength 9, {words.format('')}",
        f"random: strength 9, {words.format(', as for dsmoe')}",
    ]


def test_words_for_evidence_for_none_and_for_rounding_to_nothing() -> None:
    def words(**fields: object) -> str:
        return sentences(replace(results(), comparisons=(comparison("dsmoe", "base", **fields),)))[0]

    assert words(verdict="better", p_adjusted=0.0004).endswith("p <0.001 (Holm), better")
    assert words(smallest_visible_effect=1.0).endswith("250 questions are too few to see any effect with power 0.8")
    assert ": +0.0 points [+0.0, +0.0]," in words(delta=-0.0004, ci_low=-0.0001, ci_high=0.0)


def test_results_of_the_target_alone_make_one_table() -> None:
    alone = replace(
        results(),
        rows=tuple(row for row in results().rows if row.role == "target"),
        comparisons=tuple(one for one in results().comparisons if one.role == "target"),
    )
    assert "harm:" in markdown(results())
    assert "harm:" not in markdown(alone)
    assert "Accuracy by domain" in terminal(results())
    assert "Accuracy by domain" not in terminal(alone)


def test_a_bar_in_a_name_does_not_break_markdown() -> None:
    tables = [line for line in markdown(results()).splitlines() if line.startswith("|")]
    assert any("law \\| order" in line for line in tables)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {9, 8}


def test_results_without_a_target_are_refused() -> None:
    with pytest.raises(InputError, match="cell 3f2a: no row of the target"):
        markdown(replace(results(), rows=()))


def test_generated_answers_are_told_from_those_that_are_none() -> None:
    assert "Generated answers" not in terminal(results())
    shares = {"chance": (None, None), "base": (0.25, 0.031)}
    rows = [
        replace(row, samples=4, truncated=shares[row.method][0], unanswered=shares[row.method][1])
        for row in results().rows
        if row.method in shares
    ]
    generated = replace(results(), rows=tuple(rows))
    lines = [line.split() for line in terminal(generated).splitlines()]
    at = lines.index(["Generated", "answers"])
    assert ["base", "25.0", "3.1", "25.0", "3.1"] in lines[at:]
    assert "chance" not in {line[0] for line in lines[at:] if line}
    assert "| base | 25.0 | 3.1 | 25.0 | 3.1 |" in markdown(generated)
    (chance, base) = numbers(generated)
    assert (chance["target_truncated"], base["target_truncated"], base["non_target_unanswered"]) == ("", "25.0", "3.1")
