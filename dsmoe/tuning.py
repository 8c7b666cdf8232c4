"""Tuning: what a method's settings leave open is chosen on dev, once, over a named grid; the whole curve is kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsmoe.evaluation.choice import Point, choose
from dsmoe.evaluation.samples import Sample
from dsmoe.methods import Settings, Trial, candidates, open_settings

CHOICE = "choice.json"

Ask = Callable[[Trial], Sequence[Sequence[Sample]]]
"""A trial's answers, domain by domain, the target first."""


def write_choice(folder: Path, method: str, settings: Settings, ask: Ask) -> None:
    """Ask every candidate the dev questions, and write the chosen one with all the others beside it."""
    names = open_settings(settings)
    base = ask(Trial("base", "dev"))
    points = [
        _point({name: getattr(candidate, name) for name in names}, ask(Trial(method, "dev", candidate)), base)
        for candidate in candidates(settings)
    ]
    content = {
        "method": method,
        "chosen": dict(choose(points).settings),
        "base": _accuracy(base[0]),
        "curve": [point.to_json() for point in points],
    }
    (folder / CHOICE).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_choice(folder: Path) -> dict[str, Any]:
    """What was chosen, and the curve that it was chosen from."""
    content: dict[str, Any] = json.loads((folder / CHOICE).read_text(encoding="utf-8"))
    return content


def as_chosen(settings: Settings, chosen: Mapping[str, Any]) -> Settings:
    """The settings with what was chosen for what they leave open."""
    return replace(settings, **{name: chosen[name] for name in open_settings(settings)})


def _point(settings: dict[str, float], answers: Sequence[Sequence[Sample]], base: Sequence[Sequence[Sample]]) -> Point:
    target, *others = answers
    n_others = sum(map(len, others))
    gain = sum(map(_right, others)) - sum(map(_right, base[1:]))
    return Point(settings, _accuracy(target), len(target), gain / n_others if n_others else None, n_others)


def _right(samples: Sequence[Sample]) -> float:
    return sum(sample.score for sample in samples)


def _accuracy(samples: Sequence[Sample]) -> float:
    return _right(samples) / len(samples)
