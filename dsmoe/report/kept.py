"""What a cell keeps beside its results so that people can look into them: its questions, and its experts' scores."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as arrow
from pyarrow import parquet

from dsmoe.domains.records import Record

QUESTIONS = arrow.schema(
    {
        "record_id": arrow.string(),
        "domain": arrow.string(),
        "question": arrow.string(),
        "options": arrow.list_(arrow.string()),
        "answer": arrow.int64(),
    }
)
EXPERTS = arrow.schema(
    {
        "method": arrow.string(),
        "layer": arrow.int64(),
        "expert": arrow.int64(),
        "score": arrow.float64(),
        "steered": arrow.bool_(),
    }
)


@dataclass(frozen=True, slots=True)
class Question:
    """A test question with its text; `answer` is the index of the right option, or without options the right number."""

    record_id: str
    domain: str
    question: str
    options: tuple[str, ...]
    answer: int

    @property
    def right(self) -> str:
        """The right answer in words."""
        return self.options[self.answer] if self.options else str(self.answer)


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert as a method sees it: its score, None where nothing was scored, and whether it is steered."""

    method: str
    layer: int
    expert: int
    score: float | None
    steered: bool


def write_questions(records: Sequence[Record], path: Path) -> None:
    """Write the questions of records as Parquet."""
    rows = [
        {"record_id": one.id, "domain": one.domain, "question": one.question, "options": one.options}
        | {"answer": one.answer}
        for one in records
    ]
    parquet.write_table(arrow.Table.from_pylist(rows, QUESTIONS), path)


def read_questions(path: Path) -> Iterator[Question]:
    """The questions of a Parquet file."""
    for row in parquet.read_table(path, schema=QUESTIONS).to_pylist():
        yield Question(**{**row, "options": tuple(row["options"])})


def write_experts(experts: Sequence[Expert], path: Path) -> None:
    """Write experts as Parquet."""
    parquet.write_table(arrow.Table.from_pylist([asdict(expert) for expert in experts], EXPERTS), path)


def read_experts(path: Path) -> list[Expert]:
    """The experts of a Parquet file."""
    return [Expert(**row) for row in parquet.read_table(path, schema=EXPERTS).to_pylist()]
