"""A task for lm-eval: its configuration, and which of its documents are our test questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsmoe.domains.prompts import Scoring, evaluation_prompt
from dsmoe.domains.records import Record
from dsmoe.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

NOTHING = ("", "[invalid]")
"""What lm-eval's filters give where they find no answer."""


@dataclass(frozen=True)
class Task:
    """One domain's test questions as lm-eval wants them.

    `name` is lm-eval's, `label` ours, another one for every domain. `config` is an lm-eval task or group as a
    mapping, `folder` where the YAML files lie that it names. `documents` are the indices of the documents to run (None
    for all), `id_field` is the field of a document that names our record. Of lm-eval's ways to extract an answer,
    `filter` is the one that counts, and `answered(response, extracted)` says whether it found one. `examples` is a hash
    of whatever else the model is shown.
    """

    name: str
    label: str
    domain: str
    config: dict[str, Any]
    records: Sequence[Record]
    id_field: str = "id"
    folder: Path | None = None
    documents: list[int] | None = None
    filter: str = "none"
    answered: Callable[[str, str], bool] = lambda _, extracted: extracted not in NOTHING
    examples: str = ""


def stock(name: str, **changes: Any) -> dict[str, Any]:
    """The configuration of a task of lm-eval's own, with some of its keys changed."""
    # A bare mapping would take the place of the stock YAML; inside a group it overrides single keys of it.
    return {"group": "stock", "task": [{"task": name, **changes}]}


def stock_folder(name: str) -> Path:
    """Where lm-eval keeps the YAML files of some tasks of its own."""
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent / name


def dataset_of(documents: Sequence[dict[str, Any]], split: str) -> Callable[..., dict[str, "Dataset"]]:
    """What lm-eval calls to have these documents as a split of a data set."""

    def dataset(**_: Any) -> dict[str, "Dataset"]:
        from datasets import Dataset

        return {split: Dataset.from_list(list(documents))}

    return dataset


def choice_task(domain: str, records: Sequence[Record], scoring: Scoring) -> Task:
    """A multiple-choice task over records, scored by log-likelihood as `evaluation_prompt` lays it out.

    Raises InputError for a record without options.
    """
    documents = []
    for record in records:
        if not record.options:
            raise InputError(f"benchmark.task: {scoring} scores options, but record {record.id!r} has none")
        context, continuations = evaluation_prompt(record, scoring)
        documents.append({"id": record.id, "context": context, "choices": continuations, "answer": record.answer})
    config = {
        "task": scoring,
        "custom_dataset": dataset_of(documents, "test"),
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
