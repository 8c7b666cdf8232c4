"""Differences from the base model: gain on the target against cost elsewhere, and target by target over many cells."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dsmoe.report.collection import Collection, Entry, differing, shown
from dsmoe.report.figure import PANELS, Figure, first, legend, look, panels, wrapped, zero
from dsmoe.report.plot import INK
from dsmoe.report.shown import points
from dsmoe.results import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INTERVALS = 30
"""Most points of a panel that have intervals and labels."""
ROWS = 30
"""Most cells of a panel whose names stand beside it."""


def tradeoff(collection: Collection) -> Iterator[Figure]:
    """Gain on the target against the change elsewhere, a point a method and cell, a panel a model and target."""
    groups = dict(list(collection.groups.items())[:PANELS])
    lines = [
        (entry.id, model, domain, method, strength, *_interval(target), *_interval(others))
        for (model, domain, _), entries in groups.items()
        for entry in entries
        for method, strength, target, others in _pairs(entry)
    ]
    if not lines:
        return

    def draw() -> Any:
        drawing, axes = panels(len(groups), height=3.2)
        for one, ((model, domain, _), entries) in zip(axes, groups.items(), strict=True):
            _scatter(one, [pair for entry in entries for pair in _pairs(entry)])
            one.set(
                title=f"{domain}, {model}", xlabel="Δ on the other domains, points", ylabel="Δ on the target, points"
            )
        legend(drawing, axes)
        return drawing

    yield Figure(
        "tradeoff",
        "Gain on the target against cost elsewhere: one point a method and strength, with 95% intervals; dsmoe’s "
        f"strength beside it.{first(len(collection.groups))}",
        "Difference from the base model on the target against that on all other domains, one point a method and "
        "strength, with 95% intervals; up is a gain, left is a cost. "
        + (f"{len(lines)} points." if len(lines) > 12 else "; ".join(_in_words(line) for line in lines) + "."),
        (
            "cell", "model", "target", "method", "strength", "target_delta", "target_ci_low", "target_ci_high",
            "others_delta", "others_ci_low", "others_ci_high",
        ),
        lines,
        draw,
    )  # fmt: skip


def by_cell(collection: Collection) -> Iterator[Figure]:
    """What dsmoe gains over base on the target, cell by cell with its interval, a panel a model and target."""
    groups = {
        group: found
        for group, entries in collection.groups.items()
        if (found := [(entry, one) for entry in entries if (one := entry.comparison("dsmoe", "base")) is not None])
    }
    more, groups = first(len(groups)), dict(list(groups.items())[:PANELS])
    if sum(map(len, groups.values())) < 2:
        return

    def draw() -> Any:
        tallest = min(ROWS, max(map(len, groups.values())))
        named = [_names([entry for entry, _ in found]) for found in groups.values()]
        longest = max((len(line) for names in named for name in names for line in name.splitlines()), default=0)
        drawing, axes = panels(len(groups), width=4 + 0.07 * longest, height=1.1 + 0.2 * tallest)
        for one, names, ((model, domain, _), found) in zip(axes, named, groups.items(), strict=True):
            _forest(one, [comparison for _, comparison in found], names)
            one.set(title=f"{domain}, {model}", xlabel="Δ base on the target, points")
        return drawing

    yield Figure(
        "cells",
        f"Every cell’s gain on the target, with its 95% interval.{more}",
        f"Difference of dsmoe from the base model on the target with its 95% interval, cell by cell: "
        f"{sum(map(len, groups.values()))} cells in {len(groups)} panels.",
        ("cell", "model", "target", "label", "delta", "ci_low", "ci_high"),
        [
            (entry.id, model, domain, entry.label, *_interval(comparison))
            for (model, domain, _), found in groups.items()
            for entry, comparison in found
        ],
        draw,
    )


def _names(entries: Sequence[Entry]) -> list[str]:
    """What tells a panel's cells apart; nothing where they are too many to be named."""
    if len(entries) > ROWS:
        return []
    keys = differing(entries)
    return [wrapped(entry.label_of(keys)) or entry.id[:8] for entry in entries]


def by_method(entry: Entry) -> Iterator[Figure]:
    """One cell: every method's difference from base, on the target and on all other domains."""
    found = {role: _against_base(entry, role) for role in ("target", "non_target")}
    found = {role: comparisons for role, comparisons in found.items() if comparisons}
    if not found:
        return
    where = {"target": f"on {entry.group[1]}", "non_target": "on all other domains"}

    def draw() -> Any:
        drawing, axes = panels(len(found), height=0.9 + 0.3 * max(map(len, found.values())))
        for one, (role, comparisons) in zip(axes, found.items(), strict=True):
            _forest(one, comparisons, [comparison.method for comparison in comparisons], True)
            one.set(title=where[role], xlabel="Δ base, points")
            if role == "non_target" and (harm := comparisons[0].harm) is not None:
                one.axvline(-100 * harm.margin, color=INK, linewidth=0.8, linestyle=":")
        return drawing

    words = "; ".join(
        f"{one.method} {points(one.delta)} {where[role]}" for role, comparisons in found.items() for one in comparisons
    )
    yield Figure(
        f"methods-{entry.id[:8]}",
        "Differences from the base model, with 95% intervals; dotted: the margin of harm.",
        "Difference of each method from base in points with 95% intervals; the dotted line is the margin of harm. "
        f"{words}.",
        ("method", "role", "delta", "ci_low", "ci_high"),
        [(one.method, role, *_interval(one)) for role, comparisons in found.items() for one in comparisons],
        draw,
    )


def _against_base(entry: Entry, role: str) -> list[Comparison]:
    methods = dict.fromkeys(row.method for row in entry.results.rows)
    return [found for method in methods if (found := entry.comparison(method, "base", role)) is not None]


def _pairs(entry: Entry) -> list[tuple[str, float | None, Comparison, Comparison]]:
    """Method, strength, and how it stands against base on the target and on all others."""
    return [
        (target.method, row.strength if (row := entry.row(target.method, "target")) else None, target, others)
        for target in _against_base(entry, "target")
        if (others := entry.comparison(target.method, "base", "non_target")) is not None
    ]


def _interval(comparison: Comparison) -> tuple[float, float, float]:
    return comparison.delta, comparison.ci_low, comparison.ci_high


def _in_words(line: Sequence[Any]) -> str:
    at = "" if line[4] is None else f" at strength {shown(line[4])}"
    return f"{line[2]}: {line[3]}{at} {points(line[5])} on the target, {points(line[8])} elsewhere"


def _scatter(axes: "Axes", pairs: Sequence[tuple[str, float | None, Comparison, Comparison]]) -> None:
    zero(axes)
    zero(axes, vertical=True)
    for method in dict.fromkeys(method for method, *_ in pairs):
        own = [pair for pair in pairs if pair[0] == method]
        targets, others = [target for *_, target, _ in own], [other for *_, other in own]
        x, y = [100 * one.delta for one in others], [100 * one.delta for one in targets]
        colour, marker = look(method)
        above = 4 if method == "dsmoe" else 3
        axes.plot(x, y, marker, color=colour, markersize=5, linestyle="none", label=method, zorder=above)
        if len(pairs) <= INTERVALS:
            axes.hlines(y, *_ends(others), colors=colour, linewidth=0.8, alpha=0.5)
            axes.vlines(x, *_ends(targets), colors=colour, linewidth=0.8, alpha=0.5)
            for (_, strength, *_), across, up in zip(own, x, y, strict=True):
                if strength is not None and method == "dsmoe":
                    axes.annotate(shown(strength), (across, up), xytext=(4, 3), textcoords="offset points", fontsize=7)


def _forest(axes: "Axes", comparisons: Sequence[Comparison], names: Sequence[str], by_look: bool = False) -> None:
    """Differences below one another with their intervals, the first on top."""
    zero(axes, vertical=True)
    rows = range(len(comparisons))
    looks = [look(one.method) if by_look else look("dsmoe") for one in comparisons]
    axes.hlines(rows, *_ends(comparisons), colors=[colour for colour, _ in looks], linewidth=1.4)
    for colour, marker in dict.fromkeys(looks):
        own = [row for row in rows if looks[row] == (colour, marker)]
        size = 5 if len(rows) <= ROWS else 2
        axes.plot([100 * comparisons[row].delta for row in own], own, marker, color=colour, markersize=size)
    axes.set_yticks(list(rows) if names else [], list(names))
    axes.set_ylim(len(comparisons) - 0.5, -0.5)


def _ends(comparisons: Sequence[Comparison]) -> tuple[list[float], list[float]]:
    """The intervals' lower and upper ends in points."""
    return [100 * one.ci_low for one in comparisons], [100 * one.ci_high for one in comparisons]
