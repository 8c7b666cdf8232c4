"""Problems of the American Invitational Mathematics Examination, whose answers are whole numbers from 0 to 999."""

from collections.abc import Mapping
from typing import Any

from dsmoe.config import Origin
from dsmoe.domains.hub import renamed, rows
from dsmoe.domains.read import to_records
from dsmoe.domains.records import Record

DOMAIN = "math"
"""What MMLU-Pro calls it too."""


def problems(origin: Origin, hub: str, split: str) -> list[Record]:
    """All problems of the data set `hub`, or of a file of the same fields; all are test."""
    found = rows(origin, hub, split)
    return to_records(((where, _problem(row)) for where, row in found), origin.path or hub, DOMAIN, numeric=True)


def _problem(row: Any) -> Any:
    """The row as a record's fields; the years differ in the case of their names."""
    if not isinstance(row, Mapping):
        return row
    small = {str(name).casefold(): value for name, value in row.items()}
    found = renamed(small, {"problem": "question", "answer": "answer"})
    return found if isinstance(found, ValueError) else {**found, "id": small.get("id"), "split": "test"}
