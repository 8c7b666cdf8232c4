"""lm-eval's own MMLU-Pro tasks: five examples with their reasoning, then a generated answer, extracted as lm-eval does.

The questions come from the Hub, or from a local copy of the Hub's repository named by `dataset.path`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsmoe.config import BenchmarkConfig, DatasetConfig
from dsmoe.domains.records import Record
from dsmoe.domains.sources.mmlu_pro import HUB, questions
from dsmoe.errors import InputError
from dsmoe.evaluation.task import Task
from dsmoe.stage import stable_hash

METRICS = ("exact_match",)


def examples(dataset: DatasetConfig) -> Sequence[dict[str, Any]]:
    """The questions with their reasoning that are shown before the one asked, of all domains."""
    return list(questions(dataset, "validation"))


def task(domain: str, records: Sequence[Record], benchmark: BenchmarkConfig, dataset: DatasetConfig) -> Task:
    """lm-eval's task of the domain, restricted to `records`.

    Raises InputError where the data set is another one or is a bare file, which has no examples to show.
    """
    if dataset.source != "mmlu_pro":
        raise InputError(f"benchmark.task: mmlu_pro asks MMLU-Pro's questions, but dataset.source is {dataset.source}")
    if dataset.path is not None and not Path(dataset.path).is_dir():
        raise InputError(
            f"dataset.path: {dataset.path} is not a folder; benchmark.task=mmlu_pro wants a copy of {HUB} with its "
            "validation split, whose questions are the examples"
        )
    import lm_eval.tasks

    name = f"mmlu_pro_{domain.replace(' ', '_')}"
    folder = Path(lm_eval.tasks.__file__).parent / "mmlu_pro"
    if not (folder / f"{name}.yaml").exists():
        raise InputError(f"benchmark.task: lm-eval has no task {name} for domain {domain!r}")
    ids = [str(row["question_id"]) for row in questions(dataset) if row["category"] == domain]
    overrides = {
        "task": name,
        "dataset_path": dataset.path or HUB,
        "dataset_kwargs": {"revision": dataset.revision} if dataset.revision else {},
        "generation_kwargs": {
            "until": ["Question:"],
            "max_gen_toks": benchmark.max_new_tokens,
            "do_sample": False,
            "temperature": 0.0,
        },
    }
    return Task(
        name,
        name,
        domain,
        # A bare mapping would take the place of the stock YAML; inside a group it overrides single keys of it.
        {"group": "stock", "task": [overrides]},
        records,
        id_field="question_id",
        folder=folder,
        documents=sorted(ids.index(record.id) for record in records),
        examples=stable_hash([row for row in examples(dataset) if row["category"] == domain]),
    )
