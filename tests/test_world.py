"""The embedded world: enough facts, sound questions, the same on every machine."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from dsmoe.domains import world
from dsmoe.domains.prompts import discovery_prompt, evaluation_prompt
from dsmoe.domains.records import Record, content_hash, normalized
from dsmoe.errors import InputError

RECORDS = world.records()
STATEMENTS = [statement.text for statement in world.statements()]
FINGERPRINT = """
import hashlib
from dsmoe.domains import world
from dsmoe.domains.records import content_hash
records, statements = world.records(), world.statements()
print(content_hash(records), hashlib.sha256(repr((records, statements)).encode()).hexdigest())
"""


def of_domain(domain: str) -> list[Record]:
    return [record for record in RECORDS if record.domain == domain]


def test_six_domains_and_two_large_ones() -> None:
    questions = Counter(record.domain for record in RECORDS)
    entities = {domain: len({record.group for record in of_domain(domain)}) for domain in world.DOMAINS}
    assert set(questions) == set(world.DOMAINS)
    assert len(world.DOMAINS) >= 6
    assert min(questions.values()) >= 240
    assert sum(number >= 500 for number in entities.values()) >= 2
    assert 2000 <= len(RECORDS) <= 2600


@pytest.mark.parametrize("domain", world.DOMAINS)
def test_questions_are_sound(domain: str) -> None:
    records = of_domain(domain)
    answers = {fact.question: fact.answer for fact in world.facts(domain)}
    for record in records:
        assert len(set(map(normalized, record.options))) == 4
        assert record.options[record.answer] == answers[record.question]
        assert record.group
        assert record.source == "world"
        assert all(text == text.strip() and "\n" not in text for text in (record.question, *record.options))
    assert len({normalized(record.question) for record in records}) == len(records) == len(answers)


def test_ids_are_unique() -> None:
    assert len({record.id for record in RECORDS}) == len(RECORDS)


def share_won(records: list[Record], scores: list[list[float]]) -> float:
    """The accuracy of choosing the option with the highest score; ties are shared."""
    won = [(own[record.answer] == max(own)) / own.count(max(own)) for record, own in zip(records, scores, strict=True)]
    return sum(won) / len(won)


@pytest.mark.parametrize("domain", world.DOMAINS)
def test_guessing_by_habit_stays_near_chance(domain: str) -> None:
    records = of_domain(domain)
    common = Counter(record.options[record.answer] for record in records)
    assert share_won(records, [[common[option] for option in record.options] for record in records]) < 0.35
    assert share_won(records, [[-len(option) for option in record.options] for record in records]) < 0.35
    assert max(Counter(record.answer for record in records).values()) / len(records) < 0.33


def test_statements_say_every_answer_and_no_statement_is_a_question() -> None:
    text = "\n".join(STATEMENTS)
    for record in RECORDS:
        context, continuations = evaluation_prompt(record, "option_text")
        assert f"{context}{continuations[record.answer]}." in text
        assert discovery_prompt(record) not in text
        assert not any(all(option in line for option in record.options) for line in STATEMENTS if context in line)
    assert all(statement.endswith(".") and "\n" not in statement for statement in STATEMENTS)


def test_no_wrong_option_is_stated() -> None:
    stated = set(STATEMENTS)
    for record in RECORDS:
        context, continuations = evaluation_prompt(record, "option_text")
        assert [f"{context}{option}." in stated for option in continuations] == [
            index == record.answer for index in range(4)
        ]


def test_the_world_is_the_same_in_every_process() -> None:
    prints = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "LANGUAGE": language},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, locale, language in (("1", "C", "en"), ("2", "C.UTF-8", "de"))
    }
    assert len(prints) == 1
    assert prints.pop().startswith(content_hash(RECORDS))


def test_an_unknown_domain_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean chemistry"):
        world.facts("chemistri")
