"""Figures of an analysis: they show what the tables hold, at any size, and skip what is not there."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from dsmoe.report.figures import FIGURES, draw
from dsmoe.report.figures.domains import existence, overlap
from dsmoe.report.figures.experts import usage
from dsmoe.report.figures.layers import depth, load
from dsmoe.report.figures.why import pairs, rollout, similarity
from dsmoe.report.plot import BLUE, PAPER, style

Rows = list[dict[str, Any]]


def tables(num_domains: int, num_layers: int, num_experts: int) -> dict[str, Rows]:
    """Made-up tables of an analysis of that size."""
    draw = np.random.default_rng(0)
    domains, layers = [f"domain {number}" for number in range(num_domains)], range(num_layers)
    everywhere = [None, *layers]
    choices = {(d, y): draw.multinomial(900, draw.dirichlet(np.ones(num_experts))) for d in domains for y in layers}
    quantities = ("jsd", "labels_mean", "labels_q95", "labels_p", "shared_jsd", "routers_mean", "routers_q95")
    return {
        "usage": [
            {"domain": d, "layer": y, "expert": e, "tokens": int(counts[e]), "share": counts[e] / 900}
            for (d, y), counts in choices.items()
            for e in range(num_experts)
        ],
        "existence": [
            {"domain": d, "layer": y, "routers_p": 0.1, **dict(zip(quantities, draw.random(7), strict=True))}
            for d in domains
            for y in everywhere
        ],
        "overlap": [
            {"domain_a": a, "domain_b": b, "layer": y}
            | dict(zip(("js_distance", "jaccard_top_k", "jaccard_top_p"), draw.random(3), strict=True))
            for number, a in enumerate(domains)
            for b in domains[number + 1 :]
            for y in everywhere
        ],
        "load": [
            {"domain": d, "layer": y, "gini": draw.random(), "cv": 1.0, "dead": y % 3, "hot": y % 2}
            for d in [None, *domains]
            for y in layers
        ],
        "direction": [{"layer": y, "mean_energy": 0.3, "spread": 0.1, "spread_random": 0.02} for y in layers],
        "similarity": [
            {"level": level, "layer": y, "correlation": 0.4, "explained": 0.16, "null_q95": 0.05}
            | {"p": 0.2 if y == 1 else 0.001, "same_domain_partial": 0.1}
            for level in ("token", "sequence")
            for y in layers
        ],
        "pairs": [
            {"level": level, "layer": y, "cosine_bin": center, "overlap_mean": abs(center), "pairs": number}
            for level in ("token", "sequence")
            for y in layers
            for center, number in ((-0.025, 19), (0.025, 20), (0.525, 300))
        ],
        "rollout": [{"layer": y, "own": 0.8, "same_domain": 0.7, "other_domain": 0.5, "p": 0.01} for y in layers],
        "origin": [
            {"router_loss": loss, "batches": batches, "layer": y, "jsd": 0.1, "gini": 0.4, "mean_energy": 0.3}
            for loss in (0.02, 0.0)
            for batches in ("mixed", "single")
            for y in layers
        ],
    }


def drawn(figure: Any, *rows: Rows) -> Figure:
    """The figure of one or two tables."""
    with style():
        found: Figure = figure(*map(pa.Table.from_pylist, rows))
    pyplot.close(found)
    return found


def values(line: Line2D, axis: str) -> list[float]:
    """What a line shows along an axis."""
    return list(map(float, np.asarray(line.get_xdata() if axis == "x" else line.get_ydata())))


def shown(axes: Axes) -> NDArray[np.float64]:
    """What an image shows, nan where it is blank."""
    (image,) = axes.images
    cells = image.get_array()
    assert cells is not None
    return np.asarray(np.ma.filled(cells, np.nan))


def write(folder: Path, made: dict[str, Rows]) -> None:
    for name, rows in made.items():
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


@pytest.mark.parametrize("size", [(2, 1, 4), (6, 2, 16), (14, 48, 128)])
def test_every_figure_is_drawn_at_any_size(size: tuple[int, int, int], tmp_path: Path) -> None:
    write(tmp_path, tables(*size))
    assert draw(tmp_path) == [tmp_path / f"{name}.svg" for name in FIGURES]
    for name in FIGURES:
        assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")
        with Image.open(tmp_path / f"{name}.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert 400 < pixels.shape[1] < 2400
        # Nothing is cut off: the paper's edge is white all around.
        edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
        assert all((edge == 255).all() for edge in edges), name


def test_what_is_not_there_is_skipped(tmp_path: Path) -> None:
    made = tables(3, 2, 4)
    write(tmp_path, {name: made[name] for name in ("usage", "load", "pairs")})
    empty = pa.Table.from_pylist([], pa.schema({"domain_a": pa.string(), "layer": pa.int64()}))
    parquet.write_table(empty, tmp_path / "overlap.parquet")
    assert [path.name for path in draw(tmp_path)] == ["usage.svg", "pairs.svg"]
    assert {path.stem for path in tmp_path.glob("*.png")} == {"usage", "pairs"}


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        made = tables(3, 2, 4)
        write(tmp_path / name, {table: made[table] for table in ("usage", "existence", "pairs")})
        draw(tmp_path / name)
        images = sorted(path for path in (tmp_path / name).iterdir() if path.suffix != ".parquet")
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in images})
    assert digests[0] == digests[1]
    assert len(digests[0]) == 6


def test_usage_is_a_domain_less_all_others_in_points() -> None:
    rows = [
        {"domain": domain, "layer": layer, "expert": expert, "tokens": tokens, "share": 0.0}
        for domain, counts in (("a", (8, 2, 5, 5)), ("b", (10, 10, 0, 20)), ("c", (0, 20, 10, 10)))
        for (layer, expert), tokens in zip(((3, 0), (3, 1), (5, 0), (5, 1)), counts, strict=True)
    ]
    first, second, _ = drawn(usage, rows).axes[:3]
    assert first.get_title(loc="left") == "a"
    np.testing.assert_allclose(shown(first), [[80 - 25, 20 - 75], [50 - 25, 50 - 75]])
    np.testing.assert_allclose(shown(second)[0], [50 - 100 * 8 / 30, 50 - 100 * 22 / 30])


def test_existence_fills_the_points_that_are_above_the_null() -> None:
    rows = [
        {"domain": domain, "layer": layer, "jsd": jsd, "labels_mean": 0.01, "labels_q95": 0.02, "labels_p": 0.01}
        | {"shared_jsd": None, "routers_mean": None, "routers_q95": None, "routers_p": None}
        for domain, jsd in (("above", 0.03), ("below", 0.015))
        for layer in (None, 0, 1)
    ]
    schema = pa.Table.from_pylist(rows).schema
    numbers = pa.schema([f if f.name == "domain" else f.with_type(pa.float64()) for f in schema])
    with style():
        figure = existence(pa.Table.from_pylist(rows, numbers))
    pyplot.close(figure)
    above, below = figure.axes[0].lines[:2]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert (values(above, "x"), [names[int(at)] for at in values(above, "y")]) == ([0.03], ["above"])
    assert (values(below, "x"), [names[int(at)] for at in values(below, "y")]) == ([0.015], ["below"])
    assert below.get_markerfacecolor() == PAPER
    assert to_hex(above.get_markerfacecolor()) == BLUE


@pytest.mark.parametrize("turned", [False, True])
def test_overlap_is_symmetric_whichever_way_pairs_are_named(turned: bool) -> None:
    one, other = ("domain_b", "domain_a") if turned else ("domain_a", "domain_b")
    rows = [
        {one: a, other: b, "layer": layer, "js_distance": 0.1 * at, "jaccard_top_k": 0.5, "jaccard_top_p": 0.9}
        for layer in (None, 0)
        for at, (a, b) in enumerate((("x", "y"), ("x", "z"), ("y", "z")), start=1)
    ]
    np.testing.assert_allclose(
        shown(drawn(overlap, rows).axes[1]), [[np.nan, 0.1, 0.2], [0.1, np.nan, 0.3], [0.2, 0.3, np.nan]]
    )


def test_depth_is_the_mean_over_pairs() -> None:
    made = tables(4, 3, 4)["overlap"]
    line = drawn(depth, made).axes[0].lines[0]
    expected = [np.mean([row["jaccard_top_p"] for row in made if row["layer"] == layer]) for layer in range(3)]
    np.testing.assert_allclose(values(line, "y"), expected)


def test_load_has_a_line_a_domain_and_one_for_all() -> None:
    made = tables(5, 3, 4)
    lines = drawn(load, made["load"], made["direction"]).axes[0].lines
    everything = [row["gini"] for row in made["load"] if row["domain"] is None]
    assert sum(len(values(line, "x")) == 3 for line in lines) == 6
    assert any(line.get_label() == "all domains" and values(line, "y") == everything for line in lines)


def test_layers_that_chance_explains_are_hollow() -> None:
    (axes, *_) = drawn(similarity, tables(2, 3, 4)["similarity"]).axes
    (hollow,) = [line for line in axes.lines if line.get_label() == "p ≥ 0.05"]
    assert values(hollow, "x") == [1]


def test_bins_of_few_pairs_are_not_shown() -> None:
    (axes, *_) = drawn(pairs, tables(2, 3, 4)["pairs"]).axes
    assert [values(line, "x") for line in axes.lines] == [[0.025, 0.525]] * 3


def test_a_rollout_without_others_is_still_drawn() -> None:
    row = {"layer": 0, "own": 0.5, "same_domain": 0.2, "other_domain": 0.1, "p": 0.5}
    lines = drawn(rollout, [row, {**dict.fromkeys(row), "layer": 1}]).axes[0].lines
    assert [line.get_label() for line in lines] == [
        "its own", "p ≥ 0.05", "another of its domain", "one of another domain",
    ]  # fmt: skip
