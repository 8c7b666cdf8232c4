"""Reads a wandb run file: records of protobuf in the framing of LevelDB's log; and what a run has to hold."""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

from dsmoe.results import Comparison, Results, Row

BLOCK, HEADER = 32768, 7
LAST = (1, 4)
"""Types of chunks that end a record: whole, and the last of several."""


def records(path: Path) -> Iterator[Record]:
    """Every record, in order."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, parts = HEADER, b""
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        if not kind:  # The rest of the file was never written.
            return
        parts += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in LAST:
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def offline_run(path: Path) -> dict[str, Any]:
    """What a run file holds: tables as objects, figures as bytes."""
    found: dict[str, Any] = {"config": {}, "summary": {}}
    for record in records(path):
        if record.HasField("run"):
            run = record.run
            found |= {"id": run.run_id, "group": run.run_group, "job_type": run.job_type, "name": run.display_name}
            found |= {"tags": list(run.tags), "project": run.project}
            found["config"] |= {item.key: json.loads(item.value_json) for item in run.config.update}
        for item in record.summary.update:
            found["summary"][item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        for item in record.history.item:
            if item.nested_key[1:] == ["path"]:
                place = path.parent / "files" / json.loads(item.value_json)
                found[item.nested_key[0]] = _content(place.name, place.read_bytes())
    return found


def sent_run(run: dict[str, Any]) -> dict[str, Any]:
    """The same of a run that the stand-in for the server has."""
    media = {key: value for key, value in run["summary"].items() if isinstance(value, dict) and "path" in value}
    return {
        "group": run["groupName"],
        "job_type": run["jobType"],
        "name": run["displayName"],
        "tags": run.get("tags", []),
        "config": {key: value["value"] for key, value in run["config"].items()},
        "summary": run["summary"],
        **{key: _content(value["path"], run["files"][value["path"]]) for key, value in media.items()},
    }


def _content(name: str, content: bytes) -> Any:
    return json.loads(content) if name.endswith(".json") else content


def entries(table: dict[str, Any]) -> list[dict[str, Any]]:
    """A table's rows, by column."""
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def check_tables(found: dict[str, Any], cell: Results) -> None:
    """That a run's tables hold every row and every comparison of results.json, value by value."""
    tables: dict[str, Sequence[Row | Comparison]] = {"rows": cell.rows, "comparisons": cell.comparisons}
    for name, whole in tables.items():
        shown = entries(found[name])
        assert len(shown) == len(whole)
        for table_row, entry in zip(shown, whole, strict=True):
            keys = {field.name for field in fields(entry)}
            columns = {column.partition(".")[0] for column in table_row}
            assert columns | {"harm", "routing_changed"} >= keys >= columns
            for column, value in table_row.items():
                outer, _, inner = column.partition(".")
                whole_value = getattr(entry, outer)
                expected = getattr(whole_value, inner) if inner and whole_value is not None else whole_value
                assert value == expected
                assert type(value) is type(expected) or {type(value), type(expected)} == {int, float}
