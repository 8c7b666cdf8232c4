"""A comparison killed again and again at random moments ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

pytestmark = pytest.mark.chaos

KILLS = 20
SEED = int(os.environ.get("CHAOS_SEED", "0"))
COMMAND = [
    sys.executable, "-m", "dsmoe", "compare", "domain=chemistry", "benchmark.non_target=[biology]",
    "benchmark.limit=40", "model.pretrain.steps=30", "sft.epochs=4", "steering.num_experts=8",
    "steering.random_draws=2",
]  # fmt: skip


def start(results: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*COMMAND, f"paths.results={results}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def finish(results: Path) -> None:
    assert start(results).wait() == 0


def outcome(results: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (path,) = results.glob("default/*/results.json")
    found = json.loads(path.read_text())
    found["provenance"].pop("git_commit")  # whoever works in this checkout may commit meanwhile
    return found, parquet.read_table(path.with_name("samples.parquet")).to_pylist()


def test_twenty_kills_change_no_bit(tmp_path: Path) -> None:
    """A run that finishes before it has been killed is compared, and the next kills hit a new one."""
    draw = random.Random(SEED)
    began = time.monotonic()
    finish(tmp_path / "calm")
    seconds = time.monotonic() - began
    calm, kills, runs = outcome(tmp_path / "calm"), 0, 0
    while kills < KILLS:
        wild = tmp_path / f"wild-{runs}"
        process = start(wild)
        try:
            assert process.wait(timeout=draw.uniform(0.3, 1.0) * seconds) == 0
            assert outcome(wild) == calm
            runs += 1
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    finish(wild)
    assert outcome(wild) == calm
    assert [path for path in wild.rglob(".*") if path.name.endswith((".lock", ".partial"))] == []
