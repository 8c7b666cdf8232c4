"""An engine of vLLM, steered and not, in turn in one engine that is compiled."""

import tempfile
from pathlib import Path
from typing import Any

from measure import Measure
from test_vllm import ask, random_checkpoint, steering

ROUNDS = 12
PROMPTS = [[3 + (7 * number + place) % 150 for place in range(40)] for number in range(16)]


def served_measures() -> list[Measure]:
    """Tokens a second of 16 sequences of 40 tokens and 64 new ones; steered beside unsteered."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_checkpoint("olmoe", folder / "model")
        step = {"time": PROMPTS, "steerings": [None, steering("olmoe", 4.0).to_json()], "rounds": ROUNDS}
        settings: dict[str, Any] = {"additional_config": {"dsmoe": {}}, "gpu_memory_utilization": 0.1}
        ((plain, steered),) = ask(folder, folder / "model", [step], **settings)
    return [
        Measure("tokens of vLLM, unsteered", "", plain, "", "/s"),
        Measure("tokens of vLLM, steered", "", steered, "", "/s"),
        Measure("speed of vLLM, steered", "unsteered", [a / b for a, b in zip(steered, plain, strict=True)]),
    ]
