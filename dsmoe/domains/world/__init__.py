"""The embedded world: facts in six domains that a small model learns in minutes, and questions about them.

A domain is one module here with a function `facts() -> list[Fact]`; its name is the domain's name. Facts come from
well-kept packages, the standard library and arithmetic. Everything that is chosen is chosen by a hash of what it says,
so the world is the same on every machine and in every process.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import NamedTuple, TypeVar

from dsmoe import plugins
from dsmoe.domains.records import Record

DOMAINS = plugins.names(__name__)
SOURCE = "world"
NUM_OPTIONS = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing to know: `question` is the beginning of a sentence that `answer` ends.

    `entity` is what the fact is about: it becomes the record's group. The answers of a `kind` are each other's wrong
    options, so no answer may also be right for another entity's question of the kind unless it is spelled alike.
    `paraphrases` end in the same answer and are read in pretraining only: one for kinds that are harder to learn.
    """

    kind: str
    entity: str
    question: str
    answer: str
    paraphrases: tuple[str, ...] = ()


class Statement(NamedTuple):
    """A sentence that states a fact of a domain."""

    domain: str
    text: str


def records() -> list[Record]:
    """A question on every fact, with four options, in the order of the domains and their facts."""
    return [record for domain in DOMAINS for record in _questions(domain, facts(domain))]


def statements() -> list[Statement]:
    """The sentences that state the facts, for pretraining: never a question with options."""
    return [
        Statement(domain, f"{beginning} {fact.answer}.")
        for domain in DOMAINS
        for fact in facts(domain)
        for beginning in (fact.question, *fact.paraphrases)
    ]


@cache
def facts(domain: str) -> list[Fact]:
    """The facts of one domain. Raises InputError where there is no such domain."""
    found: list[Fact] = plugins.load(__name__, domain, "domain").facts()
    return found


def shuffled(items: Iterable[T], salt: str, text: Callable[[T], str] = str) -> list[T]:
    """The items in an order that depends on `salt` and on their text alone."""
    salted = f"{salt}\n".encode()
    return sorted(items, key=lambda item: hashlib.sha256(salted + text(item).encode()).digest())


def _questions(domain: str, known: list[Fact]) -> list[Record]:
    kinds: dict[str, list[Fact]] = {}
    for fact in known:
        kinds.setdefault(fact.kind, []).append(fact)
    return [
        Record(
            id=f"{domain}-{number:04}",
            domain=domain,
            question=fact.question,
            options=(options := _options(fact, kinds[fact.kind])),
            answer=options.index(fact.answer),
            source=SOURCE,
            group=fact.entity,
        )
        for number, fact in enumerate(known, start=1)
    ]


def _options(fact: Fact, rivals: list[Fact]) -> tuple[str, ...]:
    # Drawing other facts rather than other answers makes a wrong option as frequent among wrong options as it is among
    # right ones: knowing which answers are common helps nobody.
    drawn = shuffled(rivals, fact.question, attrgetter("question"))
    answers = [fact.answer]
    for rival in drawn:
        if len(answers) == NUM_OPTIONS:
            break
        if rival.answer not in answers:
            answers.append(rival.answer)
    return tuple(shuffled(answers, f"{fact.question} options"))
