"""lm-eval's own MMLU-Pro tasks: five examples with their reasoning, then a generated answer, extracted as lm-eval does.

The questions come from the Hub, or from a local copy of the Hub's repository.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsmoe.config import Origin
from dsmoe.domains.records import Record
from dsmoe.domains.sources.mmlu_pro import HUB, rows_of_split
from dsmoe.errors import InputError
from dsmoe.evaluation.task import Task, stock, stock_folder
from dsmoe.provenance import stable_hash

METRICS = ("exact_match",)


def examples(questions: Origin) -> Sequence[dict[str, Any]]:
    """The questions with their reasoning that are shown before the one asked, of all domains."""
    return list(rows_of_split(questions, "validation"))


def task(domain: str, records: Sequence[Record], questions: Origin) -> Task:
    """lm-eval's task of the domain, restricted to `records`.

    Raises InputError where the questions are other ones or come from a bare file, which has no examples to show.
    """
    if questions.source != "mmlu_pro":
        raise InputError(
            f"benchmark.task: mmlu_pro asks MMLU-Pro's questions, but {questions.key}.source is {questions.source}"
        )
    if questions.path is not None and not Path(questions.path).is_dir():
        raise InputError(
            f"{questions.key}.path: {questions.path} is not a folder; benchmark.task=mmlu_pro wants a copy of {HUB} "
            "with its validation split, whose questions are the examples"
        )
    name = f"mmlu_pro_{domain.replace(' ', '_')}"
    folder = stock_folder("mmlu_pro")
    if not (folder / f"{name}.yaml").exists():
        raise InputError(f"benchmark.task: lm-eval has no task {name} for domain {domain!r}")
    ids = [str(row["question_id"]) for row in rows_of_split(questions) if row["category"] == domain]
    return Task(
        name,
        name,
        domain,
        stock(
            name,
            dataset_path=questions.path or HUB,
            dataset_kwargs={"revision": questions.revision} if questions.revision else {},
        ),
        records,
        id_field="question_id",
        folder=folder,
        documents=sorted(ids.index(record.id) for record in records),
        filter="custom-extract",
        examples=stable_hash([row for row in examples(questions) if row["category"] == domain]),
    )
