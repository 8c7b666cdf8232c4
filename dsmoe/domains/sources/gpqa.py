"""GPQA Diamond (arXiv 2311.12022): hard questions of physics, chemistry and biology, all of them test.

They come from the Hub, where one has to agree to its authors' terms first, or from a file of the same fields.
"""

import hashlib
from typing import Any

from dsmoe.config import Origin
from dsmoe.domains.hub import renamed, rows
from dsmoe.domains.read import to_records
from dsmoe.domains.records import Record

HUB, SUBSET = "Idavidrein/gpqa", "gpqa_diamond"
CHOICES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
FIELDS = {"Record ID": "id", "High-level domain": "domain", "Question": "question", **{name: name for name in CHOICES}}


def load(config: Origin) -> list[Record]:
    """All questions of GPQA Diamond, each with its high-level domain in small letters."""
    found = rows(config, HUB, "train", SUBSET)
    return to_records(((where, _question(row)) for where, row in found), config.path or HUB)


def _question(row: Any) -> Any:
    """The row as a record's fields.

    The right answer comes first in the data. The options are shown in the order of a hash of question and option, which
    tells nothing of the answer and is the same in every run; lm-eval draws another order in each.
    """
    row = renamed(row, FIELDS)
    if not isinstance(row, dict):
        return row
    question, choices = row["question"], [row.pop(name) for name in CHOICES]
    options = sorted(choices, key=lambda choice: hashlib.sha256(f"{question}\n{choice}".encode()).hexdigest())
    return {
        **row,
        "domain": str(row["domain"]).casefold(),
        "options": options,
        "answer": options.index(choices[0]),
        "split": "test",
    }
