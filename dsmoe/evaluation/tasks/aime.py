"""lm-eval's own AIME tasks: a generated answer, whose boxed number, or that between dollars, is compared."""

from collections.abc import Sequence

from dsmoe.config import Origin
from dsmoe.domains.records import Record
from dsmoe.errors import InputError
from dsmoe.evaluation.task import Task, dataset_of, stock, stock_folder

METRICS = ("exact_match",)
FIELDS = {"aime24": ("Problem", "Answer", "train"), "aime25": ("problem", "answer", "test")}
"""What each year's task calls a document's fields and its split."""


def task(domain: str, records: Sequence[Record], questions: Origin) -> Task:
    """lm-eval's task of the year on these records. Raises InputError where the questions are other ones."""
    name = questions.source or ""
    if name not in FIELDS:
        raise InputError(
            f"benchmark.task: aime asks the problems of {' or '.join(FIELDS)}, but {questions.key}.source is {name}"
        )
    problem, answer, split = FIELDS[name]
    documents = [{"id": record.id, problem: record.question, answer: str(record.answer)} for record in records]
    return Task(
        name,
        name,
        domain,
        stock(name, custom_dataset=dataset_of(documents, split)),
        records,
        folder=stock_folder("aime"),
        answered=_answered,
    )


def _answered(response: str, _: str) -> bool:
    """Whether lm-eval finds an answer marked as such, or the whole response is a number, which it then takes."""
    from lm_eval.tasks.aime.utils import last_boxed_only_string

    marked = response.count("$") > 1 or last_boxed_only_string(response) is not None
    return marked or response.strip().isdecimal()
