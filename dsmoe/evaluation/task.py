"""A task for lm-eval: its configuration, and which of its documents are our test questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from dsmoe.domains.prompts import Scoring, evaluation_prompt
from dsmoe.domains.records import Record


@dataclass(frozen=True)
class Task:
    """One domain's test questions as lm-eval wants them.

    `name` is lm-eval's, `label` ours, another one for every domain. `config` is an lm-eval task or group as a
    mapping, `folder` where the YAML files lie that it names. `documents` are the indices of the documents to run (None
    for all), `id_field` is the field of a document that names our record. `examples` is a hash of whatever else
    the model is shown.
    """

    name: str
    label: str
    domain: str
    config: dict[str, Any]
    records: Sequence[Record]
    id_field: str = "id"
    folder: Path | None = None
    documents: list[int] | None = None
    examples: str = ""


def choice_task(domain: str, records: Sequence[Record], scoring: Scoring) -> Task:
    """A multiple-choice task over records, scored by log-likelihood as `evaluation_prompt` lays it out."""
    documents = []
    for record in records:
        context, continuations = evaluation_prompt(record, scoring)
        documents.append({"id": record.id, "context": context, "choices": continuations, "answer": record.answer})
    config = {
        "task": scoring,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(documents)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": lambda document: document["context"],
        "doc_to_choice": lambda document: document["choices"],
        "doc_to_target": lambda document: document["answer"],
        "target_delimiter": "",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    return Task(scoring, f"{scoring}/{domain}", domain, config, records)
