"""Curves: accuracy over strength on the test questions of a sweep, and on dev, where settings were chosen."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dsmoe.report.collection import Collection, Entry, differing, shown
from dsmoe.report.figure import PANELS, Figure, first, legend, look, panels, wrapped
from dsmoe.report.plot import INK
from dsmoe.report.varied import flat
from dsmoe.results import CHANCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TICKS = 10
"""Most strengths that are named below a curve."""
Line = tuple[str, str, str, float, float, float, int]
"""Panel, method, role, strength, accuracy, its standard error, questions."""


def strength_curves(collection: Collection) -> Iterator[Figure]:
    """Accuracy over strength, a panel for cells that differ in nothing else; none without such cells."""
    found = [entries for entries in _sweeps(collection.entries) if len(entries) > 1]
    if not found:
        return
    sweeps = found[:PANELS]
    apart = [key for key in differing([entries[0] for entries in sweeps]) if key != "steering.strength"]
    titles = [_title(entries[0], apart) for entries in sweeps]
    lines = [line for title, entries in zip(titles, sweeps, strict=True) for line in _points(title, entries)]
    steered = {entry.row("dsmoe", "target") for entries in sweeps for entry in entries}
    strengths = sorted({row.strength for row in steered if row and row.strength is not None})

    def draw() -> Any:
        drawing, axes = panels(len(sweeps))
        for one, title in zip(axes, titles, strict=True):
            _curve(one, [line for line in lines if line[0] == title])
            one.set(title=wrapped(title), xlabel="strength", ylabel="accuracy, %")
        legend(drawing, axes)
        return drawing

    yield Figure(
        "strength",
        "Accuracy over strength: the target solid with one standard error, all other domains dashed."
        + first(len(found)),
        "Accuracy of each method over the strength of steering "
        f"({', '.join(map(shown, strengths))}), with one standard error, on the target (solid) and on all other "
        f"domains (dashed): {'; '.join(titles)}.",
        ("panel", "method", "role", "strength", "accuracy", "stderr", "n"),
        lines,
        draw,
    )


def dev_curves(collection: Collection) -> Iterator[Figure]:
    """What was chosen on dev, among what: a panel for each choice; none where nothing was open."""
    found = _choices(collection.entries)
    if not found:
        return
    chosen = found[:PANELS]
    lines = [
        (title, *_setting(point["settings"]), point["target"], point["n"], point["settings"] == choice["chosen"])
        for title, choice in chosen
        for point in choice["curve"]
    ]

    def draw() -> Any:
        drawing, axes = panels(len(chosen))
        for one, (title, choice) in zip(axes, chosen, strict=True):
            _dev_curve(one, choice)
            one.set_title(title)
        return drawing

    best = "; ".join(f"{title}: {_settings(choice['chosen'])}" for title, choice in chosen)
    yield Figure(
        "dev",
        f"What was chosen on dev: the best on the target among those that do not harm the others.{first(len(found))}",
        f"Accuracy of every candidate on the target’s dev questions; the chosen one is ringed. Chosen: {best}.",
        ("panel", "setting", "value", "other settings", "accuracy", "n", "chosen"),
        lines,
        draw,
    )


def _sweeps(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries that differ in nothing but the strength that their config states."""
    alike: dict[str, list[Entry]] = {}
    for entry in entries:
        settings = dict(flat(entry.results.config))
        if isinstance(settings.pop("steering.strength"), int | float):
            alike.setdefault(json.dumps(settings, sort_keys=True), []).append(entry)
    return list(alike.values())


def _title(entry: Entry, apart: Sequence[str]) -> str:
    """Target and model, and what tells this sweep from the others."""
    model, domain, _ = entry.group
    return ", ".join(filter(None, (domain, model, entry.label_of(apart))))


def _points(title: str, entries: Sequence[Entry]) -> Iterator[Line]:
    for entry in entries:
        strength = float(entry.results.config["steering"]["strength"])
        for method in dict.fromkeys(row.method for row in entry.results.rows if row.method != CHANCE):
            for role in ("target", "non_target"):
                if (row := entry.row(method, role)) is not None:
                    yield title, method, role, strength, row.value, row.stderr, row.n


def _curve(axes: "Axes", lines: Sequence[Line]) -> None:
    """One panel; strengths as 1 + strength on a logarithmic axis, which is what routers add."""
    strengths = sorted({line[3] for line in lines})
    for method in dict.fromkeys(line[1] for line in lines):
        colour, marker = look(method)
        for role, dashes in (("target", "-"), ("non_target", "--")):
            found = sorted((line for line in lines if line[1:3] == (method, role)), key=lambda line: line[3])
            if not found:
                continue
            x, y = [1 + line[3] for line in found], [100 * line[4] for line in found]
            axes.plot(
                x,
                y,
                dashes,
                color=colour,
                marker=marker,
                markersize=4,
                linewidth=1.3,
                label=method,
                zorder=_above(method),
            )
            if role == "target":
                low, high = ([100 * (line[4] + sign * line[5]) for line in found] for sign in (-1, 1))
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    named = strengths[:: -(-len(strengths) // TICKS)]
    axes.set_xticks([1 + strength for strength in named], [shown(strength) for strength in named])
    axes.minorticks_off()


def _above(method: str) -> float:
    """What is steered by discovery is drawn over what it coincides with."""
    return 4 if method == "dsmoe" else 3


def _choices(entries: Sequence[Entry]) -> list[tuple[str, Mapping[str, Any]]]:
    """Each choice once: methods that take one over, and cells that share one, have the same."""
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for entry in entries:
        for choice in entry.results.choices.values():
            model, domain, _ = entry.group
            found.setdefault(
                json.dumps([entry.group, choice], sort_keys=True), (f"{choice['method']}: {domain}, {model}", choice)
            )
    return list(found.values())


def _setting(settings: Mapping[str, float]) -> tuple[str, float, str]:
    """The setting along the axis, its value, and the others in words."""
    name = next(name for name in ("strength", "epochs", "learning_rate", "num_experts") if name in settings)
    return name, settings[name], _settings({key: value for key, value in settings.items() if key != name})


def _settings(settings: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in settings.items())


def _dev_curve(axes: "Axes", choice: Mapping[str, Any]) -> None:
    curve = [(*_setting(point["settings"]), point) for point in choice["curve"]]
    values = sorted({value for _, value, _, _ in curve})
    for others in dict.fromkeys(words for _, _, words, _ in curve):
        line = sorted((value, 100 * point["target"]) for _, value, words, point in curve if words == others)
        x, y = [values.index(value) for value, _ in line], [accuracy for _, accuracy in line]
        axes.plot(x, y, marker="o", markersize=4, linewidth=1.3, label=others)
    axes.axhline(100 * choice["base"], color=look("base")[0], linestyle=":", label="base")
    name, value, _, point = next(one for one in curve if one[3]["settings"] == choice["chosen"])
    axes.plot(
        [values.index(value)], [100 * point["target"]], "o", markersize=11, fillstyle="none", color=INK, label="chosen"
    )
    axes.set_xticks(range(len(values)), [shown(value) for value in values])
    axes.set(xlabel=name.replace("_", " "), ylabel=f"accuracy on dev, % (n = {point['n']})")
    axes.legend(fontsize=7)
