"""Samples: what a method answered, question by question, and the Parquet file that keeps it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
        "response": arrow.string(),
        "score": arrow.float64(),
    }
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One question as lm-eval scored it.

    `log_likelihoods` has one entry an option, in nats, for tasks that score options; `response` is the generated text
    for tasks that generate. `score` is the metric's value: 1 for right, 0 for wrong.
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
    response: str | None
    score: float


def write_samples(samples: Sequence[Sample], path: Path) -> None:
    """Write samples as Parquet, the same bytes for the same samples."""
    parquet.write_table(arrow.Table.from_pylist([asdict(sample) for sample in samples], SCHEMA), path)


def read_samples(path: Path) -> list[Sample]:
    """The samples of a Parquet file."""
    rows = parquet.read_table(path, schema=SCHEMA).to_pylist()
    return [
        Sample(**{**row, "log_likelihoods": row["log_likelihoods"] and tuple(row["log_likelihoods"])}) for row in rows
    ]
