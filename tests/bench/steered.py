"""Steered prefill and generation, beside base; one router call."""

import statistics
from contextlib import nullcontext

import torch
from measure import Measure, seconds
from shapes import model_of_size

from dsmoe import Steering, steer
from dsmoe.models.routers import find_routers

PAIRS = 11
CALLS = 1000


def steering_measures() -> list[Measure]:
    """Base and steered in turn, and base and base beside them, which is what noise alone makes of the ratio.

    All experts are raised alike, so that the routing, and with it the work, stays the same.
    """
    model = model_of_size(layers=8, experts=64, hidden_size=512, expert_size=256)
    steering = Steering(dict.fromkeys(range(8), tuple(range(64))), 4.0)
    draw = torch.Generator().manual_seed(0)
    prompts, starts = (torch.randint(3, 150, shape, generator=draw) for shape in ((8, 128), (64, 8)))

    def prefill() -> None:
        with torch.no_grad():
            model(prompts)

    def generate() -> None:
        model.generate(starts, max_new_tokens=3, min_new_tokens=3, do_sample=False)

    measures = []
    for name, work in (("prefill", prefill), ("generation, 3 tokens", generate)):
        again, steered = [], []
        work()
        for _ in range(PAIRS):
            base = seconds(work)
            again.append(seconds(work) / base)
            base = seconds(work)
            with steer(model, steering):
                steered.append(seconds(work) / base)
        measures += [
            Measure(f"{name}, base again, time", f"{name}, base", again),
            Measure(f"{name}, steered, time", f"{name}, base", steered, "as base again"),
        ]
    return measures


def router_call_measures() -> list[Measure]:
    """Microseconds that one router call takes, base and steered."""
    model = model_of_size(layers=1, experts=64, hidden_size=512, expert_size=16)
    (router,) = find_routers(model)
    found = []
    for tokens in (1, 64, 1024):
        hidden = torch.randn(tokens, 512, generator=torch.Generator().manual_seed(0))

        def call(hidden: torch.Tensor = hidden) -> None:
            with torch.no_grad():
                router.module(hidden)

        for name, context in (("base", nullcontext()), ("steered", steer(model, Steering({0: tuple(range(64))}, 4.0)))):
            with context:
                taken = 1e6 * statistics.median(seconds(call) for _ in range(CALLS))
            found.append(Measure(f"a router call of {tokens} tokens, {name}", "", [taken], unit="µs"))
    return found
