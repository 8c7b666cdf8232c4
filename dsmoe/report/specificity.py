"""What is special about the experts: their scores among all experts, and dsmoe among draws of random experts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dsmoe.report.collection import Entry
from dsmoe.report.figure import Figure, look, panels
from dsmoe.report.kept import Expert, read_experts
from dsmoe.report.shown import percent

BLACK = "#111111"
"""Upon a heatmap, whose colours are the same on light pages and dark ones."""


def scores(entry: Entry) -> Iterator[Figure]:
    """Heatmaps of layers × experts: the scores that dsmoe steers by, beside those for the control's domain."""
    path = entry.folder / "experts.parquet"
    by_method: dict[str, list[Expert]] = {}
    for expert in read_experts(path) if path.exists() else []:
        by_method.setdefault(expert.method, []).append(expert)
    scored = {
        method: experts for method, experts in by_method.items() if method != "random" and experts[0].score is not None
    }
    if not scored:
        return
    planted = {(one.layer, one.expert) for one in by_method.get("oracle", [])}

    def draw() -> Any:
        layers = len({one.layer for one in next(iter(scored.values()))})
        drawing, axes = panels(len(scored), height=1.3 + min(4.0, 0.16 * layers), columns=2)
        for one, (method, experts) in zip(axes, scored.items(), strict=True):
            _heatmap(drawing, one, experts, planted if method == "dsmoe" else set())
            one.set(title=_title(entry, method), xlabel="expert", ylabel="layer")
        return drawing

    steered = "; ".join(f"{method} steers {_places(experts)}" for method, experts in scored.items())
    crosses = " Crosses are the experts that were planted." if planted else ""
    yield Figure(
        f"experts-{entry.id[:8]}",
        "Scores of all experts, layer by layer; framed: steered" + ("; crossed: planted." if planted else "."),
        f"Score of every expert of every layer; those that are steered are framed: {steered}.{crosses}",
        ("method", "layer", "expert", "score", "steered", "planted"),
        [
            (method, one.layer, one.expert, one.score, one.steered, (one.layer, one.expert) in planted)
            for method, experts in scored.items()
            for one in experts
        ],
        draw,
    )


def draws(entry: Entry) -> Iterator[Figure]:
    """Accuracy of random draws on the target as a strip, with dsmoe and base."""
    found, base = entry.results.specificity, entry.row("base", "target")
    if found is None:
        return

    def draw() -> Any:
        drawing, (axes,) = panels(1, width=7.2, height=1.3)
        colour, marker = look("random")
        heights = [0.18 * (number % 5 - 2) for number in range(len(found.draws))]
        axes.plot(
            [100 * value for value in found.draws], heights, marker, color=colour, linestyle="none", label="random"
        )
        for method, value in (("base", base.value if base else None), ("dsmoe", found.value)):
            if value is not None:
                axes.axvline(100 * value, color=look(method)[0], linewidth=2, label=method)
        axes.set(xlabel="accuracy on the target, %", ylim=(-0.7, 0.7))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return drawing

    yield Figure(
        f"draws-{entry.id[:8]}",
        "Among draws of as many random experts in each layer.",
        f"dsmoe gets {percent(found.value)}% right on {entry.group[1]}, above {found.above} of {len(found.draws)} "
        f"draws of as many random experts, which lie between {percent(min(found.draws))} and "
        f"{percent(max(found.draws))}%.",
        ("method", "accuracy"),
        [("dsmoe", found.value), *(("random", value) for value in found.draws)],
        draw,
    )


def _heatmap(drawing: Any, axes: Any, experts: Sequence[Expert], planted: set[tuple[int, int]]) -> None:
    layers, numbers = sorted({one.layer for one in experts}), sorted({one.expert for one in experts})
    values: Mapping[tuple[int, int], float | None] = {(one.layer, one.expert): one.score for one in experts}
    grid = [[values[layer, expert] for expert in numbers] for layer in layers]
    most = max(abs(value or 0.0) for row in grid for value in row) or 1.0
    image = axes.imshow(grid, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    for one in experts:
        if one.steered:
            corner = (one.expert - 0.5, layers.index(one.layer) - 0.5)
            axes.add_patch(_frame(corner))
    for layer, expert in planted:
        axes.plot([expert], [layers.index(layer)], "x", color=BLACK, markersize=4)
    axes.set_yticks(range(0, len(layers), -(-len(layers) // 12)), layers[:: -(-len(layers) // 12)])
    bar = drawing.colorbar(image, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("score")


def _frame(corner: tuple[float, float]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, fill=False, edgecolor=BLACK, linewidth=1.4, clip_on=False)


def _title(entry: Entry, method: str) -> str:
    rule = entry.results.config["discovery"]["rule"]
    origin = json.loads((entry.folder / f"steering-{method}.json").read_text(encoding="utf-8"))["origin"]
    return f"{method}: for {origin.get('domain', entry.group[1])}, by {origin.get('rule', rule)}"


def _places(experts: Sequence[Expert]) -> str:
    steered = [f"{one.layer}.{one.expert}" for one in experts if one.steered]
    more = f" and {len(steered) - 12} more" if len(steered) > 12 else ""
    return f"{', '.join(steered[:12])}{more} (layer.expert)"
