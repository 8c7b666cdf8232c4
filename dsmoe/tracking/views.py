"""The dashboard as wandb-workspaces makes it: a workspace of the project, and a report of a study.

Both go by their names: what is there under one is made anew, not twice. wandb is imported, so only the client's process
imports this.
"""

import json
from collections.abc import Sequence
from typing import Any

import wandb
from wandb_workspaces import expr
from wandb_workspaces.reports import v2 as reports
from wandb_workspaces.reports.v2.interface import SummaryMetric
from wandb_workspaces.workspaces import RunsetSettings, Section, Workspace, internal

NAME = "dsmoe"
"""The workspace's name, in its address too: it shows all studies of the project."""
METHODS = ("base", "sft", "dsmoe", "random", "other_domain", "oracle")
"""What the workspace has bars for, whatever single studies compare."""
COMPARED = expr.Metric("JobType") == "compare"
COLUMNS = (
    "config:sweep.value",
    "summary:target/dsmoe/value",
    "summary:target/dsmoe/delta_base",
    "summary:target/dsmoe/verdict_base",
    "summary:non_target/dsmoe/delta_base",
    "summary:non_target/dsmoe/harm",
)
FIGURES = ["figures/tradeoff", "figures/dev", "figures/draws", "figures/experts"]


def make(
    study: str, methods: Sequence[str], table: str, project: str, entity: str | None, offline: bool
) -> dict[str, Any]:
    """The workspace and the report as JSON, once the project has them; offline, nobody is asked."""
    workspace = _workspace(project, entity or "")
    report = _report(study, methods, table, project, entity or "")
    # Before they are saved: what the server calls them is no part of what they show.
    found = {"workspace": _json(workspace._to_model()), "report": _json(report._to_model())}
    if not offline:
        workspace._internal_id = _view_id(workspace)
        workspace.save()
        report.id = _report_id(report)
        report.save()
    return found


def _workspace(project: str, entity: str) -> Workspace:
    workspace = Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            Section(name="Target and others", panels=_panels(METHODS), is_open=True),
            Section(name="Tables", panels=_tables(), is_open=True),
            Section(name="Figures", panels=[reports.MediaBrowser(media_keys=FIGURES, num_columns=3)], is_open=True),
        ],
        runset_settings=RunsetSettings(
            filters=[COMPARED], groupby=[expr.Metric("Group")], pinned_columns=list(COLUMNS)
        ),
    )
    workspace._internal_name = internal._url_query_str_to_internal_name(NAME)
    return workspace


def _report(study: str, methods: Sequence[str], table: str, project: str, entity: str) -> reports.Report:
    # Without project and entity, which it would ask a server about: the report's own.
    runs = reports.Runset(name=study, filters=[COMPARED, expr.Metric("Group") == study])
    return reports.Report(
        entity=entity,
        project=project,
        title=f"dsmoe: {study}",
        description="Domain experts steered, against what they are compared with. Made by dsmoe publish.",
        width="fluid",
        blocks=[
            reports.H1("Comparisons"),
            reports.P("Primary comparisons on the target, adjusted within each cell; differences are paired."),
            reports.MarkdownBlock(table),
            reports.H1("Target and others"),
            reports.PanelGrid(runsets=[runs], panels=[*_panels(methods), *_tables()]),
        ],
    )


def _panels(methods: Sequence[str]) -> list[Any]:
    return [
        reports.ScatterPlot(
            title="Accuracy on the target over strength",
            x=SummaryMetric("target/dsmoe/strength"),
            y=SummaryMetric("target/dsmoe/value"),
        ),
        reports.ScatterPlot(
            title="Gain on the target (x) against all others (y), dsmoe − base",
            x=SummaryMetric("target/dsmoe/delta_base"),
            y=SummaryMetric("non_target/dsmoe/delta_base"),
        ),
        reports.BarPlot(title="Accuracy on the target", metrics=[f"target/{method}/value" for method in methods]),
        reports.BarPlot(title="Accuracy on all others", metrics=[f"non_target/{method}/value" for method in methods]),
    ]


def _tables() -> list[Any]:
    return [reports.WeavePanelSummaryTable(table_name=name) for name in ("comparisons", "rows")]


def _json(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
    return found


def _view_id(workspace: Workspace) -> str:
    """That of the workspace of this name, if the project has one."""
    try:
        found = internal.get_view_dict(workspace.entity, workspace.project, NAME)
    except ValueError:
        return ""
    return str(found["id"])


def _report_id(report: reports.Report) -> str:
    """That of the report of this title, if the project has one."""
    every = wandb.Api().reports(f"{report.entity}/{report.project}")
    return next((str(one.id) for one in every if one.display_name == report.title), "")
