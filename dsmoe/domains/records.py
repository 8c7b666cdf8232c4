"""A record: one question of a domain, with options to choose from or a number as its answer."""

import hashlib
import json
import string
from collections.abc import Iterable
from dataclasses import dataclass

LETTERS = string.ascii_uppercase
MAX_OPTIONS = len(LETTERS)


@dataclass(frozen=True, slots=True)
class Record:
    """One question.

    `answer` is the index of the right option; where there are no options, it is the number that is asked for. `group`
    names the entity asked about (the question itself where the source names none): records of one group never stand on
    both sides of a split. `split` is the split that the source itself prescribes, if it does.
    """

    id: str
    domain: str
    question: str
    options: tuple[str, ...]
    answer: int
    source: str = ""
    group: str = ""
    split: str | None = None


def normalized(text: str) -> str:
    """`text` with case and spacing folded: what makes two questions the same question."""
    return " ".join(text.casefold().split())


def canonical_order(records: Iterable[Record]) -> list[Record]:
    """The records in an order that depends on their content alone, not on the file's order."""
    return sorted(records, key=lambda record: (record.domain, record.question, record.options, record.id))


def content_hash(records: Iterable[Record]) -> str:
    """A hash of what the records say, whatever their order and their source."""
    lines = sorted(
        json.dumps([r.id, r.domain, r.question, r.options, r.answer, r.group], ensure_ascii=False) for r in records
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
