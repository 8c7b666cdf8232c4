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

from dsmoe.errors import InputError
from dsmoe.results import CHANCE, POOLED_DOMAIN, POOLED_TASK, Comparison, Results, Row

COLUMNS = ("method", "target", "Δ base [95%]", "p", "verdict", "others", "Δ base [95%]", "harm")
GENERATED = ("method", "target: cut off", "no answer", "others: cut off", "no answer")
NOTE = (
    "Percent ± one standard error; Δ in points with the 95% bootstrap interval of paired differences. p: exact "
    "McNemar, or its like for groups and samples where questions share a source or have several; Holm within the "
    "primary family (dsmoe on the target) or the secondary one (all else). In brackets the smallest effect that would "
    "have been seen with power 0.8."
)
HARM_NOTE = " harm: whether the loss on the others stays within {margin} points, by a one-sided 95% bound."
MINUS = "\N{MINUS SIGN}"


def numbers(results: Results) -> list[dict[str, str]]:
    """One record a method, in the order of the rows: every number of every table, as it is shown.

    Keys: method; accuracy, stderr, n, truncated, unanswered, delta, ci_low, ci_high, p_adjusted and verdict, each after
    `target_` and `non_target_`; non_target_harm and its bound; `accuracy_TASK` for each non-target task. Empty where
    there is none.
    Raises InputError for results without a target.
    """
    target, others = _target(results), _others(results)
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
        record["non_target_harm_bound"] = _points(harm.bound) if harm is not None else ""
        for other in others:
            row = values.get((method, other.task))
            record[f"accuracy_{other.task}"] = _percent(row.value) if row is not None else ""
        records.append(record)
    return records


def sentences(results: Results) -> list[str]:
    """The primary family in words, a line a comparison; the rank among random draws; what was chosen; the routing."""
    primary = [_sentence(comparison) for comparison in results.comparisons if comparison.family == "primary"]
    return primary + _specificity_sentence(results) + _choice_sentences(results) + _routing_sentences(results)


def rich_table(results: Results) -> Group:
    """The tables and the sentences under them, for a terminal of 120 columns."""
    main, domains = _main_lines(results), _domain_lines(results)
    parts: list[Table | Text] = [grid(_title(results), COLUMNS, main)]
    if domains:
        parts.append(grid("Accuracy by domain", _domain_columns(results), domains))
    if generated := _generated_lines(results):
        parts.append(grid("Generated answers", GENERATED, generated))
    parts += [Text(sentence) for sentence in sentences(results)]
    parts.append(Text(_note(results), style="dim"))
    return Group(*parts)


def markdown(results: Results) -> str:
    """The same as `rich_table` in GitHub's Markdown, with a newline at the end."""
    parts = [f"**{_title(results)}**", pipes(COLUMNS, _main_lines(results))]
    if domains := _domain_lines(results):
        parts.append(pipes(_domain_columns(results), domains))
    if generated := _generated_lines(results):
        parts.append(pipes(GENERATED, generated))
    if lines := sentences(results):
        parts.append("\n".join(f"- {line}" for line in lines))
    parts.append(_note(results))
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
        cells |= {"accuracy": _percent(row.value), "n": str(row.n)}
        shares = {"truncated": row.truncated, "unanswered": row.unanswered}
        cells |= {name: _percent(share) for name, share in shares.items() if share is not None}
        cells["stderr"] = _percent(row.stderr) if row.method != CHANCE else ""
    if change is not None:
        cells |= {"delta": _points(change.delta), "ci_low": _points(change.ci_low), "ci_high": _points(change.ci_high)}
        cells |= {"p_adjusted": _p(change.p_adjusted), "verdict": change.verdict}
        cells["visible"] = _percent(change.smallest_visible_effect) if change.verdict == "no evidence" else ""
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


def _sentence(comparison: Comparison) -> str:
    cells = _numbers("", None, comparison)
    p = cells["p_adjusted"]
    words = (
        f"{comparison.method} {MINUS} {comparison.baseline} on {comparison.domain}: {_minus(cells['delta'])} points "
        f"{_interval(cells)}, p {p if p.startswith('<') else f'= {p}'} (Holm), {comparison.verdict}"
    )
    if comparison.verdict != "no evidence":
        return words
    if comparison.smallest_visible_effect >= 1:
        return f"{words}; {comparison.n} questions are too few to see any effect with power 0.8"
    visible = _percent(comparison.smallest_visible_effect)
    return f"{words}; an effect of {visible} points would have been seen with power 0.8"


def _specificity_sentence(results: Results) -> list[str]:
    """Where dsmoe stands among the random control's draws."""
    if (found := results.specificity) is None:
        return []
    least, most = _percent(min(found.draws)), _percent(max(found.draws))
    return [
        f"dsmoe on {_target(results).domain}: {_percent(found.value)}% right, above {found.above} of "
        f"{len(found.draws)} draws of as many random experts in each layer ({least} to {most}%)"
    ]


def _choice_sentences(results: Results) -> list[str]:
    """A line a method whose settings were chosen on dev."""
    lines = []
    for method, choice in results.choices.items():
        chosen = ", ".join(f"{name} {value:g}" for name, value in choice["chosen"].items())
        point = next(point for point in choice["curve"] if point["settings"] == choice["chosen"])
        whose = "" if choice["method"] == method else f", as for {choice['method']}"
        lines.append(
            f"{method}: {chosen}, chosen on dev among {len(choice['curve'])}{whose} ({_percent(point['target'])}% of "
            f"{point['n']} questions right, base {_percent(choice['base'])}%)"
        )
    return lines


def _routing_sentences(results: Results) -> list[str]:
    """A line a steered method: how many of the steered layers' choices came out otherwise."""
    lines = []
    for method in dict.fromkeys(row.method for row in results.rows if row.routing_changed is not None):
        shares = [
            f"{_percent(row.routing_changed.changed / row.routing_changed.choices)}% of the choices on {row.domain}"
            for row in results.rows
            if row.method == method and row.routing_changed is not None and row.domain in _headed(results)
        ]
        row = next(row for row in results.rows if row.method == method)
        lines.append(
            f"{method} steers {row.num_experts} experts (mode {row.mode}, strength {row.strength:g}); in their layers "
            f"it changed {', '.join(shares)}"
        )
    return lines


def _headed(results: Results) -> tuple[str, str]:
    """The domains that the main table has columns for."""
    return (_target(results).domain, POOLED_DOMAIN)


def _target(results: Results) -> Row:
    for row in results.rows:
        if row.role == "target":
            return row
    raise InputError(f"cell {results.cell}: no row of the target, so there is no table to show")


def _others(results: Results) -> list[Row]:
    """A row of each non-target task."""
    rows = [row for row in results.rows if row.role == "non_target" and row.task != POOLED_TASK]
    return list({row.task: row for row in rows}.values())


def _title(results: Results) -> str:
    target = _target(results)
    others = sum(row.n for row in _others(results))
    return f"target: {target.domain} (n = {target.n}), others: {len(_others(results))} domains (n = {others})"


def _note(results: Results) -> str:
    margins = {_percent(change.harm.margin) for change in results.comparisons if change.harm is not None}
    return NOTE + "".join(HARM_NOTE.format(margin=margin) for margin in sorted(margins))


def _accuracy(record: dict[str, str], prefix: str) -> str:
    accuracy, stderr = record[f"{prefix}accuracy"], record[f"{prefix}stderr"]
    return f"{accuracy} ± {stderr}" if stderr else accuracy


def _verdict(record: dict[str, str], prefix: str) -> str:
    verdict, visible = record[f"{prefix}verdict"], record[f"{prefix}visible"]
    return f"{verdict} ({visible})" if visible else verdict


def _change(record: dict[str, str], prefix: str) -> str:
    cells = {name: record[prefix + name] for name in ("delta", "ci_low", "ci_high")}
    return f"{_minus(cells['delta'])} {_interval(cells)}" if cells["delta"] else ""


def _interval(cells: dict[str, str]) -> str:
    return f"[{_minus(cells['ci_low'])}, {_minus(cells['ci_high'])}]"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _points(fraction: float) -> str:
    return f"{100 * fraction:+z.1f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _minus(text: str) -> str:
    return text.replace("-", MINUS)


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
