"""lm-eval's own GPQA Diamond: zero-shot chain of thought, and of what is generated the last letter in parentheses.

Documents are made of our records, whose options stand in an order that never changes. Of lm-eval's two ways to extract
an answer this is `flexible-extract`; the other one wants the words "The answer is", for which the prompt does not ask.
"""

from collections.abc import Sequence

from dsmoe.config import Origin
from dsmoe.domains.records import LETTERS, Record
from dsmoe.errors import InputError
from dsmoe.evaluation.task import Task, dataset_of, stock, stock_folder

METRICS = ("exact_match",)
NAME = "gpqa_diamond_cot_zeroshot"


def task(domain: str, records: Sequence[Record], questions: Origin) -> Task:
    """lm-eval's task on the domain's records. Raises InputError where the questions are other ones."""
    if questions.source != "gpqa":
        raise InputError(
            f"benchmark.task: gpqa asks GPQA's questions, but {questions.key}.source is {questions.source}"
        )
    from lm_eval.tasks.gpqa.cot_zeroshot.utils import preprocess

    documents = []
    for record in records:
        choices = [preprocess(option) for option in record.options]
        documents.append(
            {
                "id": record.id,
                "Question": record.question,
                **{f"choice{number}": choice for number, choice in enumerate(choices, start=1)},
                "choices": choices,
                "answer": f"({LETTERS[record.answer]})",
            }
        )
    return Task(
        NAME,
        f"{NAME}/{domain}",
        domain,
        # lm-eval's process_docs would shuffle the options anew each time that documents are read.
        stock(NAME, custom_dataset=dataset_of(documents, "train"), process_docs=None),
        records,
        folder=stock_folder("gpqa/cot_zeroshot"),
        filter="flexible-extract",
    )
