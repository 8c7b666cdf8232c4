"""A wandb run of one finished analysis or calibration: stages that are results themselves, and belong to no study."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pyarrow import parquet

from dsmoe.report.varied import flat
from dsmoe.stage import is_finished
from dsmoe.tracking.run import Run, Table, table

STAGES = ("analyze", "calibrate")
MOST_ROWS = 10_000
"""As many as wandb shows of a table; how many more there are stands in the summary."""


def finished_stages(results: Path) -> list[Path]:
    """The folders of all finished analyses and calibrations."""
    found = [path.parent for name in STAGES for path in sorted((results / "stages" / name).glob("*/status.json"))]
    return [folder for folder in found if is_finished(folder)]


def stage_run(folder: Path) -> Run:
    """The run of a stage's folder: its config, what its JSON says, its Parquet tables and its PNGs."""
    stage, digest = folder.parent.name, folder.name
    summary: dict[str, Any] = {"results_hash": digest}
    tables: dict[str, Table] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name != "status.json":
            found = json.loads(path.read_text(encoding="utf-8"))
            summary |= dict(_told(found))
            # Its Parquet files may bear the same names.
            tables |= {f"{path.stem}/{key}": table(entries) for key, entries in flat(found, mark="/") if _rows(entries)}
    for path in sorted(folder.glob("*.parquet")):
        tables[path.stem], left_out = _first_rows(path)
        if left_out:
            summary[f"{path.stem}/rows_left_out"] = left_out
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["config"]
    about = [summary[key] for key in ("model", "domain") if isinstance(summary.get(key), str)]
    return Run(
        id=digest,
        hash=digest,
        name=" ".join([stage, *about, digest[:8]]),
        group=stage,
        job_type=stage,
        config=dict(flat(config)),
        summary=summary,
        tables=tables,
        figures=lambda _: {path.stem: path for path in sorted(folder.glob("*.png"))},
    )


def _told(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Single values with their keys, also of the entries of a list that are each about a domain; lists stay whole."""
    for key, value in flat(content, mark="/"):
        if not _rows(value):
            if value is not None:
                yield key, value
        elif all("domain" in entry for entry in value):
            for entry in value:
                yield from ((f"{key}/{entry['domain']}/{name}", one) for name, one in _told(entry) if name != "domain")


def _rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, Mapping) for entry in value)


def _first_rows(path: Path) -> tuple[Table, int]:
    """A Parquet file's first rows, None for what is not a number, and how many rows there are beyond them."""
    whole = parquet.ParquetFile(path)
    columns = list(whole.schema_arrow.names)
    batch = next(whole.iter_batches(MOST_ROWS), None)
    entries = batch.to_pylist() if batch is not None else []
    rows = [[_number(entry[column]) for column in columns] for entry in entries]
    return (columns, rows), whole.metadata.num_rows - len(rows)


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
