"""Tables of a cell's results: for the terminal, in Markdown and as CSV.

All three show the strings of `numbers`: percent and points with one decimal. Full precision is in `results.json`.
"""

import csv
import io
from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dsmoe.report.sentences import sentences
from dsmoe.report.sentences import target as target_row
from dsmoe.report.shown import minus, percent, plain_p, plain_points, visible
from dsmoe.results import CHANCE, POOLED_TASK, Comparison, Results, Row

COLUMNS = ("method", "target", "Δ base [95%]", "p", "verdict", "others", "Δ base [95%]", "harm")
GENERATED = ("method", "target: cut off", "no answer", "others: cut off", "no answer")
NOTE = (
    "Percent ± one standard error; Δ in points with the 95% bootstrap interval of paired differences. p: exact "
    "McNemar, or its like for groups and samples where questions share a source or have several; Holm within the "
    "primary family (dsmoe on the target) or the secondary one (all else). In brackets the smallest effect that would "
    "have been seen with power 0.8."
)
HARM_NOTE = " harm: whether the loss on the others stays within {margin} points, by a one-sided 95% bound."


def numbers(results: Results) -> list[dict[str, str]]:
    """One record a method, in the order of the rows: every number of every table, as it is shown.

    Keys: method; accuracy, stderr, n, truncated, unanswered, delta, ci_low, ci_high, p_adjusted and verdict, each after
    `target_` and `non_target_`; non_target_harm and its bound; `accuracy_TASK` for each non-target task. Empty where
    there is none.
    Raises InputError for results without a target.
    """
    target, others = target_row(results), _others(results)
    values = {(row.method, row.task): row for row in results.rows}
    changes = {(change.method, change.task): change for change in results.comparisons if change.baseline == "base"}
    records = []
    for method in dict.fromkeys(row.method for row in results.rows):
        pooled = changes.get((method, None))
        record = {"method": method}
        record |= _numbers("target_", values.get((method, target.task)), changes.get((method, target.task)))
        record |= _numbers("non_target_", values.get((method, POOLED_TASK)), pooled)
        harm = pooled.harm if pooled is not None else None
        record["non_target_harm"] = harm.verdict if harm is not None else ""
        record["non_target_harm_bound"] = plain_points(harm.bound) if harm is not None else ""
        for other in others:
            row = values.get((method, other.task))
            record[f"accuracy_{other.task}"] = percent(row.value) if row is not None else ""
        records.append(record)
    return records


def tables(results: Results) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """Title, columns and lines of each table: the main one, accuracy by domain, what became of generated answers."""
    found = [
        (_title(results), COLUMNS, _main_lines(results)),
        ("Accuracy by domain", _domain_columns(results), _domain_lines(results)),
        ("Generated answers", GENERATED, _generated_lines(results)),
    ]
    return [one for one in found if one[-1]]


def rich_table(results: Results) -> Group:
    """The tables and the sentences under them, for a terminal of 120 columns."""
    parts: list[Table | Text] = [grid(*one) for one in tables(results)]
    parts += [Text(sentence) for sentence in sentences(results)]
    parts.append(Text(note(results), style="dim"))
    return Group(*parts)


def markdown(results: Results) -> str:
    """The same as `rich_table` in GitHub's Markdown, with a newline at the end."""
    parts = [f"**{_title(results)}**", *(pipes(columns, lines) for _, columns, lines in tables(results))]
    if lines := sentences(results):
        parts.append("\n".join(f"- {line}" for line in lines))
    parts.append(note(results))
    return "\n\n".join(parts) + "\n"


def csv_text(results: Results) -> str:
    """A header of the keys of `numbers` and one line a method; minus signs are ASCII."""
    records = numbers(results)
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def _numbers(prefix: str, row: Row | None, change: Comparison | None) -> dict[str, str]:
    names = (
        "accuracy",
        "stderr",
        "n",
        "truncated",
        "unanswered",
        "delta",
        "ci_low",
        "ci_high",
        "p_adjusted",
        "verdict",
        "visible",
    )
    cells = dict.fromkeys(names, "")
    if row is not None:
        cells |= {"accuracy": percent(row.value), "n": str(row.n)}
        shares = {"truncated": row.truncated, "unanswered": row.unanswered}
        cells |= {name: percent(share) for name, share in shares.items() if share is not None}
        cells["stderr"] = percent(row.stderr) if row.method != CHANCE else ""
    if change is not None:
        cells |= {
            "delta": plain_points(change.delta),
            "ci_low": plain_points(change.ci_low),
            "ci_high": plain_points(change.ci_high),
        }
        cells |= {"p_adjusted": plain_p(change.p_adjusted), "verdict": change.verdict}
        cells["visible"] = visible(change) if change.verdict == "no evidence" else ""
    return {prefix + name: cell for name, cell in cells.items()}


def _main_lines(results: Results) -> list[list[str]]:
    return [
        [
            record["method"],
            _accuracy(record, "target_"),
            _change(record, "target_"),
            record["target_p_adjusted"],
            _verdict(record, "target_"),
            _accuracy(record, "non_target_"),
            _change(record, "non_target_"),
            record["non_target_harm"],
        ]
        for record in numbers(results)
    ]


def _domain_columns(results: Results) -> list[str]:
    return ["domain", "n", *(record["method"] for record in numbers(results))]


def _domain_lines(results: Results) -> list[list[str]]:
    records = numbers(results)
    return [
        [other.domain, str(other.n), *(record[f"accuracy_{other.task}"] for record in records)]
        for other in _others(results)
    ]


def _generated_lines(results: Results) -> list[list[str]]:
    """A line a method that generated its answers: shares of them in which a gain may be one of form alone."""
    keys = [f"{prefix}{name}" for prefix in ("target_", "non_target_") for name in ("truncated", "unanswered")]
    return [
        [record["method"], *(record[key] for key in keys)]
        for record in numbers(results)
        if any(record[key] for key in keys)
    ]


def _others(results: Results) -> list[Row]:
    """A row of each non-target task."""
    rows = [row for row in results.rows if row.role == "non_target" and row.task != POOLED_TASK]
    return list({row.task: row for row in rows}.values())


def _title(results: Results) -> str:
    target = target_row(results)
    others = sum(row.n for row in _others(results))
    return f"target: {target.domain} (n = {target.n}), others: {len(_others(results))} domains (n = {others})"


def note(results: Results) -> str:
    """What the numbers of the tables are."""
    margins = {percent(change.harm.margin) for change in results.comparisons if change.harm is not None}
    return NOTE + "".join(HARM_NOTE.format(margin=margin) for margin in sorted(margins))


def _accuracy(record: dict[str, str], prefix: str) -> str:
    accuracy, stderr = record[f"{prefix}accuracy"], record[f"{prefix}stderr"]
    return f"{accuracy} ± {stderr}" if stderr else accuracy


def _verdict(record: dict[str, str], prefix: str) -> str:
    verdict, effect = record[f"{prefix}verdict"], record[f"{prefix}visible"]
    return f"{verdict} ({effect})" if effect else verdict


def _change(record: dict[str, str], prefix: str) -> str:
    cells = {name: record[prefix + name] for name in ("delta", "ci_low", "ci_high")}
    return f"{minus(cells['delta'])} {_interval(cells)}" if cells["delta"] else ""


def _interval(cells: dict[str, str]) -> str:
    return f"[{minus(cells['ci_low'])}, {minus(cells['ci_high'])}]"


def grid(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """A table for a terminal: the first column on the left, all others on the right."""
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index else "left")
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def pipes(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown: the first column on the left, all others on the right."""
    rule = [":--", *("--:" for _ in columns[1:])]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (columns, *lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (cells[0], rule, *cells[1:]))
