"""Samples: what a method answered, answer by answer, and the Parquet file that keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as arrow
from pyarrow import parquet

SCHEMA = arrow.schema(
    {
        "method": arrow.string(),
        "task": arrow.string(),
        "domain": arrow.string(),
        "doc_id": arrow.int64(),
        "doc_hash": arrow.string(),
        "record_id": arrow.string(),
        "num_options": arrow.int64(),
        "answer": arrow.int64(),
        "log_likelihoods": arrow.list_(arrow.float64()),
        "repeat": arrow.int64(),
        "response": arrow.string(),
        "truncated": arrow.bool_(),
        "answered": arrow.bool_(),
        "score": arrow.float64(),
    }
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to a question as lm-eval scored it.

    `answer` is the index of the right one of `num_options` options, or without options the right number. Tasks that
    score options have `log_likelihoods`, one entry an option, in nats. Tasks that generate have the text `response`,
    without its thinking, whether it was `truncated` at the limit of its length, and whether lm-eval found an answer in
    it; `repeat` counts a question's samples from 0. `score` is the metric's value: 1 for right, 0 for wrong.
    """

    method: str
    task: str
    domain: str
    doc_id: int
    doc_hash: str
    record_id: str
    num_options: int
    answer: int
    log_likelihoods: tuple[float, ...] | None
    repeat: int
    response: str | None
    truncated: bool | None
    answered: bool | None
    score: float


def write_samples(samples: Sequence[Sample], path: Path) -> None:
    """Write samples as Parquet, the same bytes for the same samples."""
    columns = {name: [getattr(sample, name) for sample in samples] for name in SCHEMA.names}
    parquet.write_table(arrow.table(columns, SCHEMA), path)


def read_samples(path: Path) -> list[Sample]:
    """The samples of a Parquet file."""
    rows = parquet.read_table(path, schema=SCHEMA).to_pylist()
    return [
        Sample(**{**row, "log_likelihoods": row["log_likelihoods"] and tuple(row["log_likelihoods"])}) for row in rows
    ]
