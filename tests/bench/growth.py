"""How discovery grows: its time at two and four times the records, layers and experts, over that at one time."""

from collections import defaultdict
from collections.abc import Callable
from itertools import product

from conftest import random_records, word_tokenizer
from measure import Measure, seconds
from shapes import model_of_size

from dsmoe import discover

RECORDS, LAYERS, EXPERTS = 120, 6, 32
TIMES = 2, 4
ROUNDS = 3


def growth_measures() -> list[Measure]:
    """One of the three sizes grows, the others stay; all of them beside the same base, round by round."""
    sizes: dict[str, Callable[[int], tuple[int, int, int]]] = {
        "records": lambda times: (RECORDS * times, LAYERS, EXPERTS),
        "layers": lambda times: (RECORDS, LAYERS * times, EXPERTS),
        "experts": lambda times: (RECORDS, LAYERS, EXPERTS * times),
    }
    ratios: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        base = _discover(RECORDS, LAYERS, EXPERTS)
        for (name, size), times in product(sizes.items(), TIMES):
            ratios[f"discovery, time, {times} times the {name}"].append(_discover(*size(times)) / base)
    return [Measure(what, "one time", found) for what, found in ratios.items()]


def _discover(records: int, layers: int, experts: int) -> float:
    model, tokenizer = model_of_size(layers=layers, experts=experts), word_tokenizer()
    return seconds(lambda: discover(model, tokenizer, random_records(records), batch_tokens=4096))
