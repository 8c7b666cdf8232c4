"""What wandb shows beside the cells that were compared: sweeps, analyses, figures and a dashboard, none of it twice."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from pyarrow import parquet
from wandb_file import check_tables, entries, offline_run, sent_run
from wandb_server import ENTITY, KEY, WandbServer, wandb_server

from dsmoe.cli import main
from dsmoe.compose import compose_cells
from dsmoe.report.plot import keep, style
from dsmoe.report.varied import varied
from dsmoe.results import Comparison, Harm, Results, RoutingChange, Row, Specificity
from dsmoe.stage import Stage
from dsmoe.tracking import stages
from dsmoe.tracking.mirror import Mirror, track

Output = pytest.CaptureFixture[str]
NAME = "own β − α|x dsmoe strength=4 experts=8 logit seed=0"
FIGURES = ("figures/tradeoff", "figures/draws", "figures/dev")


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield found


def outcome(cell: str, strength: float, quantile: float = 0.15) -> Results:
    """Results of a cell with values that are easily lost: none, whole, tiny, and letters beyond ASCII."""
    task = "option_text/β − α|x"
    base = Row("base", task, "β − α|x", "target", "acc", 0.1 + 0.2, 1e-300, 40)
    steered: dict[str, Any] = {"strength": strength, "num_experts": 8, "mode": "logit"}
    dsmoe = replace(base, method="dsmoe", value=1 / 3, routing_changed=RoutingChange(900, 120), **steered)
    pooled: dict[str, Any] = {"task": "non-target", "domain": "all others", "role": "non_target"}
    others = [replace(row, value=1.0, **pooled) for row in (base, dsmoe)]
    generated = replace(others[0], task="generated", domain="γ", samples=4, truncated=0.0, unanswered=2 / 7)
    against = Comparison(
        "dsmoe",
        "base",
        task,
        "β − α|x",
        "target",
        40,
        10,
        0.05,
        -0.05,
        0.15,
        1e-12,
        3e-12,
        4,
        2,
        "better",
        "primary",
        0.2,
    )
    on_others = replace(against, task=None, domain=None, role="non_target", delta=-0.25, family="secondary")
    harmed = replace(on_others, harm=Harm(0.05, -0.3, "harmed"))
    points = [{"settings": {"strength": value}, "target": value / 8, "n": 50} for value in (1.0, 4.0)]
    curve = [{**point, "others": None, "n_others": 0, "within_margin": True} for point in points]
    return Results(
        cell=cell,
        config={
            "model": {"name": "own"},
            "domain": "β − α|x",
            "methods": ["base", "dsmoe"],
            "seed": 0,
            "benchmark": {"source": None},
            "dataset": {"source": "records"},
            "discovery": {"rule": "dsmoe", "quantile": quantile},
            "steering": {"strength": strength},
        },
        provenance={},
        rows=(base, dsmoe, *others, generated),
        comparisons=(against, harmed),
        specificity=Specificity(1 / 3, (0.25, 0.5, 1 / 3), 1),
        choices={"dsmoe": {"method": "dsmoe", "chosen": {"strength": 4.0}, "base": 0.3, "curve": curve}},
    )


def finish(results: Path, study: str, *cells: Results) -> None:
    """The cells as `compare` leaves them, as far as wandb is concerned."""
    for one in cells:
        folder = results / study / one.cell
        folder.mkdir(parents=True)
        one.write(folder / "results.json")
        (folder / "status.json").write_text("{}")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    plain = replace(outcome("a1", 1.0), specificity=None, choices={})
    finish(tmp_path / "results", "grid", plain, outcome("b4", 4.0))
    return tmp_path / "results"


def publish(results: Path, *overrides: str) -> int:
    return main(["publish", "study=grid", f"paths.results={results}", *overrides])


def analysis(results: Path) -> Path:
    """A finished stage that holds what an analysis holds."""
    found: dict[str, Any] = {
        "schema": 1,
        "model": "own",
        "layers": [1, 2],
        "against": None,
        "existence": {
            "untested": None,
            "domains": [
                {"domain": "law − order", "labels_p": 1e-9, "routers_p": None, "verdict": "exists"},
                {"domain": "art", "labels_p": 0.5, "routers_p": 0.25, "verdict": "no evidence"},
            ],
        },
        "load": [{"layer": 1, "gini": 0.1 + 0.2, "dead": 0}, {"layer": 2, "gini": 0.0, "dead": 3}],
    }

    def make(folder: Path) -> None:
        (folder / "analysis.json").write_text(json.dumps(found))
        shares = [number / 7 for number in range(11)] + [float("nan")]
        table = arrow.table({"expert": list(range(12)), "share": shares, "domain": [None, *"αβγδεζηθικλ"]})
        parquet.write_table(table, folder / "load.parquet")
        with style():
            from matplotlib import pyplot

            keep(pyplot.subplots()[0], folder / "depth")

    key = {"model": {"weights": "x"}, "seed": 0, "texts": None}
    return Stage("analyze", 1, key).run(results, make, lambda _: None)


def check_analysis(found: dict[str, Any], folder: Path) -> None:
    """That a run shows what the analysis holds, its first ten rows of a table, and what it leaves out."""
    written, summary = json.loads((folder / "analysis.json").read_text()), found["summary"]
    assert (found["group"], found["job_type"]) == ("analyze", "analyze")
    assert found["name"] == f"analyze own {folder.name[:8]}"
    assert found["config"]["model.weights"] == "x"
    for of in written["existence"]["domains"]:
        place = f"existence/domains/{of['domain']}"
        assert {key: summary.get(f"{place}/{key}") for key in of if key != "domain"} == {
            key: value for key, value in of.items() if key != "domain"
        }
    assert entries(found["analysis/existence/domains"]) == written["existence"]["domains"]
    assert entries(found["analysis/load"]) == written["load"]
    assert summary["layers"] == [1, 2]
    assert "against" not in summary
    whole = parquet.read_table(folder / "load.parquet").to_pylist()
    assert entries(found["load"]) == whole[:10]
    assert summary["load/rows_left_out"] == 2
    assert found["figures/depth"] == (folder / "depth.png").read_bytes()


def check_cell(found: dict[str, Any], cell: Results) -> None:
    """That a run shows what a cell holds, all of its figures too."""
    check_tables(found, cell)
    (target, others), row = cell.comparisons, cell.rows[1]
    summary = found["summary"]
    assert (summary["target/dsmoe/value"], summary["target/dsmoe/stderr"]) == (row.value, row.stderr)
    assert (summary["target/dsmoe/strength"], summary["target/dsmoe/p_adjusted_base"]) == (
        row.strength,
        target.p_adjusted,
    )
    assert (summary["non_target/dsmoe/delta_base"], summary["non_target/dsmoe/harm"]) == (others.delta, "harmed")
    assert all(found[figure].startswith(b"\x89PNG") for figure in FIGURES)
    assert len({found[figure] for figure in FIGURES}) == len(FIGURES)


def read(results: Path, cell: str, study: str = "grid") -> Results:
    return Results.read(results / study / cell / "results.json")


def dashboard(results: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / "grid/.wandb/dashboard/dashboard.json").read_text())
    return found


# Runs.


def test_an_offline_run_holds_every_value_and_figure(results: Path) -> None:
    (one,) = compose_cells(["tracking.tags=[pilot]"])
    said: list[str] = []
    track(
        Mirror(results, "grid", "b4", ("steering.strength",)), replace(one.config.tracking, mode="offline"), said.append
    )
    assert said == []
    (path,) = results.glob("grid/.wandb/b4/wandb/*/*.wandb")
    found = offline_run(path)
    check_cell(found, read(results, "b4"))
    assert found["config"]["sweep"] == ["steering.strength"]


def test_an_analysis_is_a_run_offline_and_at_the_server(
    results: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "MOST_ROWS", 10)
    folder = analysis(results)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (one,) = compose_cells([])
    said: list[str] = []
    for _ in range(2):
        track(Mirror.of_stage(folder), replace(one.config.tracking, mode="offline"), said.append)
    assert said == []
    (path,) = results.glob(f"stages/analyze/.wandb/{folder.name}/wandb/*/*.wandb")
    check_analysis(offline_run(path), folder)
    assert publish(results) == 0
    check_analysis(sent_run(server.runs[folder.name]), folder)
    check_cell(sent_run(server.runs["b4"]), read(results, "b4"))
    check_tables(sent_run(server.runs["a1"]), read(results, "a1"))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_analyses_are_sent_where_a_study_has_no_cell(results: Path, server: WandbServer, capsys: Output) -> None:
    folder = analysis(results)
    assert publish(results, "study=none") == 0
    said = capsys.readouterr().err
    assert f"{results / 'none'}: holds no finished cell; analyses alone are sent" in said
    assert f"{server.url}/{ENTITY}/dsmoe: 1 sent\n" in said
    assert server.runs.keys() == {folder.name}
    assert server.views == []


# Sweeps.


@pytest.mark.parametrize(
    ("configs", "keys"),
    [
        ([], ()),
        ([{"a": 1, "b": [1]}], ()),
        ([{"a": 1, "b": [1]}, {"a": 1, "b": [2]}], ("b",)),
        ([{"x": {"a": 1}}, {"x": {"a": None}}, {"x": {"a": 1}}], ("x.a",)),
        ([{"a": {}}, {"a": {"more": 1}}], ("a.more",)),
        ([{"model": {"name": "s", "path": "S"}}, {"model": {"name": "t", "path": "T"}}], ("model.name",)),
        ([{"model": {"name": "s", "path": "S"}}, {"model": {"name": "s", "path": "T"}}], ("model.path",)),
    ],
)
def test_varied_keys(configs: list[dict[str, Any]], keys: tuple[str, ...]) -> None:
    assert varied(configs) == keys


# The dashboard.


def comparisons(report: dict[str, Any]) -> str:
    """The table of a report, without what keeps its cells apart."""
    (block,) = [block for block in json.loads(report["spec"])["blocks"] if block["type"] == "markdown-block"]
    return str(block["content"]).replace("\\|", "|")


def test_a_project_has_one_workspace_a_report_a_study_and_names_that_say_what_is_varied(
    results: Path, server: WandbServer, capsys: Output
) -> None:
    assert publish(results) == 0
    assert "2 sent; dashboard sent" in capsys.readouterr().err
    workspace, report = server.views
    assert (workspace["type"], workspace["displayName"]) == ("project-view", "dsmoe")
    assert (report["type"], report["displayName"]) == ("runs", "dsmoe: grid")
    assert json.loads(workspace["spec"]) == dashboard(results)["workspace"]["spec"]
    assert f"| {NAME} | β − α|x | base | +5.0 | −5.0 to 15.0 | 3e-12 | better |\n" in comparisons(report) + "\n"
    assert '"value":"grid"' in report["spec"]
    check_panels(results, found := sent_run(server.runs["b4"]))
    assert (found["name"], found["config"]["sweep"]) == (NAME, ["steering.strength"])
    asked = len(server.requests)
    assert publish(results) == 0
    assert "2 there already; dashboard there already" in capsys.readouterr().err
    assert set(server.requests[asked:]) == {"Viewer", "GetDefaultEntity"}
    finish(results, "grid", replace(outcome("c9", 9.0, quantile=0.5), specificity=None, choices={}))
    finish(results, "other", replace(outcome("d2", 2.0), specificity=None, choices={}))
    assert main(["publish", "-m", "study=grid,other", f"paths.results={results}"]) == 0
    assert [view["displayName"] for view in server.views] == ["dsmoe", "dsmoe: grid", "dsmoe: other"]
    assert [view["id"] for view in server.views[:2]] == [workspace["id"], report["id"]]
    for cell, strength, quantile in (("b4", 4, 0.15), ("c9", 9, 0.5)):  # What the study varies is another now.
        found = sent_run(server.runs[cell])
        assert found["config"]["sweep"] == ["discovery.quantile", "steering.strength"]
        assert found["name"] == f"{NAME.replace('=4', f'={strength}')} quantile={quantile}"
        assert found["name"] in comparisons(server.views[1])
    assert server.runs.keys() == {"a1", "b4", "c9", "d2"}
    assert "sweep" not in server.runs["d2"]["config"]


def check_panels(results: Path, run: dict[str, Any]) -> None:
    """That panels and columns name what the run has."""
    section = dashboard(results)["workspace"]["spec"]["section"]
    (grid,) = [block for block in dashboard(results)["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
    axes = [panel["config"][axis] for panel in panels[:2] for axis in ("xAxis", "yAxis")]
    bars = [metric for panel in panels[2:4] for metric in panel["config"]["metrics"]]
    assert bars == [f"{role}/{method}/value" for role in ("target", "non_target") for method in ("base", "dsmoe")]
    (media,) = section["panelBankConfig"]["sections"][2]["panels"]
    columns = section["runSets"][0]["runFeed"]["columnOrder"]
    for name in [*axes, *bars, *media["config"]["mediaKeys"][:3], *columns]:
        kind, _, key = name.rpartition(":")
        if kind == "config":
            assert key.removesuffix(".value") in run["config"]
        elif kind != "run":
            assert key in run["summary"]


def test_what_is_refused_or_broken_does_not_lose_the_rest(results: Path, server: WandbServer, capsys: Output) -> None:
    whole = (results / "grid/a1/results.json").read_bytes()
    (results / "grid/a1/results.json").write_text("{")
    server.refused = "views"
    assert publish(results) == 1
    said = capsys.readouterr().err
    assert f"not sent: {results / 'grid/a1'}: " in said
    assert f"not sent: {results / 'grid/.wandb/dashboard/dashboard.json'}: " in said
    assert "views are closed today" in said
    assert "1 sent, 1 not sent; dashboard not sent" in said
    assert server.runs.keys() == {"b4"}
    server.refused = ""
    (results / "grid/a1/results.json").write_bytes(whole)
    assert publish(results) == 0
    assert server.runs.keys() == {"a1", "b4"}
    assert len(server.views) == 2


def test_without_a_server_the_dashboard_is_kept_as_json(
    results: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert publish(results) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["publish", "dashboard"]
    assert dashboard(results)["report"]["displayName"] == "dsmoe: grid"
    assert "strength=4" in json.dumps(dashboard(results)["report"])
    assert KEY not in (results / "grid/.wandb/dashboard/dashboard.json").read_text() + "".join(said)
