"""How discovery grows: its time at two and four times the records, layers and experts, over that at one time."""

from functools import partial

from conftest import random_records, word_tokenizer
from measure import Measure, seconds
from shapes import model_of_size

from dsmoe import discover

RECORDS, LAYERS, EXPERTS = 120, 6, 32
TIMES = 2, 4
ROUNDS = 3


def growth_measures() -> list[Measure]:
    """One of the three sizes grows, the others stay."""
    found = []
    base = partial(_discover, RECORDS, LAYERS, EXPERTS)
    for name, of in (
        ("records", lambda times: (RECORDS * times, LAYERS, EXPERTS)),
        ("layers", lambda times: (RECORDS, LAYERS * times, EXPERTS)),
        ("experts", lambda times: (RECORDS, LAYERS, EXPERTS * times)),
    ):
        for times in TIMES:
            ratios = [_discover(*of(times)) / base() for _ in range(ROUNDS)]
            found.append(Measure(f"discovery, time, {times} times the {name}", "one time", ratios))
    return found


def _discover(records: int, layers: int, experts: int) -> float:
    model, tokenizer = model_of_size(layers=layers, experts=experts), word_tokenizer()
    return seconds(lambda: discover(model, tokenizer, random_records(records), batch_tokens=4096))
