"""AIME 2025: thirty problems whose answers are numbers, from the Hub or a file of the same fields; all are test."""

from dsmoe.config import Origin
from dsmoe.domains.aime import problems
from dsmoe.domains.records import Record


def load(config: Origin) -> list[Record]:
    """All problems of the year, of domain math."""
    return problems(config, "math-ai/aime25", "test")
