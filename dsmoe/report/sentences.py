"""A cell's results in sentences."""

from dsmoe.errors import InputError
from dsmoe.report.shown import MINUS, interval, p_text, percent, points, seen
from dsmoe.results import POOLED_DOMAIN, Comparison, Results, Row


def sentences(results: Results) -> list[str]:
    """The primary family in words, a line a comparison; the rank among random draws; what was chosen; the routing."""
    primary = [_sentence(comparison) for comparison in results.comparisons if comparison.family == "primary"]
    return primary + _specificity_sentence(results) + _choice_sentences(results) + _routing_sentences(results)


def _sentence(comparison: Comparison) -> str:
    words = (
        f"{comparison.method} {MINUS} {comparison.baseline} on {comparison.domain}: {points(comparison.delta)} points "
        f"{interval(comparison)}, p {p_text(comparison.p_adjusted)} (Holm), {comparison.verdict}"
    )
    return f"{words}; {seen(comparison)}" if comparison.verdict == "no evidence" else words


def _specificity_sentence(results: Results) -> list[str]:
    """Where dsmoe stands among the random control's draws."""
    if (found := results.specificity) is None:
        return []
    least, most = percent(min(found.draws)), percent(max(found.draws))
    return [
        f"dsmoe on {target(results).domain}: {percent(found.value)}% right, above {found.above} of "
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
            f"{method}: {chosen}, chosen on dev among {len(choice['curve'])}{whose} ({percent(point['target'])}% of "
            f"{point['n']} questions right, base {percent(choice['base'])}%)"
        )
    return lines


def _routing_sentences(results: Results) -> list[str]:
    """A line a steered method: how many of the steered layers' choices came out otherwise."""
    lines = []
    for method in dict.fromkeys(row.method for row in results.rows if row.routing_changed is not None):
        shares = [
            f"{percent(row.routing_changed.changed / row.routing_changed.choices)}% of the choices on {row.domain}"
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
    return (target(results).domain, POOLED_DOMAIN)


def target(results: Results) -> Row:
    """A row of the target. Raises InputError where there is none."""
    for row in results.rows:
        if row.role == "target":
            return row
    raise InputError(f"cell {results.cell}: no row of the target, so there is no table to show")
