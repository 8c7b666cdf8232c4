"""How a record becomes text: for discovery, for evaluation, for fine-tuning."""

from collections.abc import Sequence
from typing import Literal

from dsmoe.domains.records import LETTERS, Record

Scoring = Literal["option_text", "letter"]


def discovery_prompt(record: Record) -> str:
    """The text on which experts are looked for: question and lettered options, never which one is right.

    The format is that of the authors of DSMoE (arXiv 2604.05267).
    """
    options = (f"{letter}. {option}" for letter, option in zip(LETTERS, record.options, strict=False))
    return "\n".join([record.question, *options, "Answer:"])


def evaluation_prompt(record: Record, scoring: Scoring) -> tuple[str, list[str]]:
    """The context, and the continuation of it that each option stands for.

    `option_text` scores the options' own words after the question; `letter` shows the lettered options, in the format
    of the authors of DSMoE, and scores the letters.
    """
    scored = continuations(record.options, scoring)
    if scoring == "option_text":
        return record.question.strip(), scored
    letters = LETTERS[: len(record.options)]
    options = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, record.options, strict=True))
    context = f"{record.question.strip()}\n\nOptions:\n{options}\nAnswer ({', '.join(letters)}):"
    return context, scored


def continuations(options: Sequence[str], scoring: Scoring) -> list[str]:
    """What each option is scored by, as it follows the context."""
    return [f" {text}" for text in (options if scoring == "option_text" else LETTERS[: len(options)])]
