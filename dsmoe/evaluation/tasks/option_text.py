"""The options' own words are scored after the question: for models that never learned what an option's letter is."""

from collections.abc import Sequence

from dsmoe.config import Origin
from dsmoe.domains.records import Record
from dsmoe.evaluation.task import Task, choice_task

METRICS = ("acc", "acc_norm")


def task(domain: str, records: Sequence[Record], questions: Origin) -> Task:
    """The domain's records, each option scored by its text."""
    return choice_task(domain, records, "option_text")
