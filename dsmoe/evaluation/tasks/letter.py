"""The options are shown with letters, and the letters are scored: how MMLU-style questions are usually asked."""

from collections.abc import Sequence

from dsmoe.config import Origin
from dsmoe.domains.records import Record
from dsmoe.evaluation.task import Task, choice_task

METRICS = ("acc", "acc_norm")


def task(domain: str, records: Sequence[Record], questions: Origin) -> Task:
    """The domain's records, each option scored by its letter."""
    return choice_task(domain, records, "letter")
