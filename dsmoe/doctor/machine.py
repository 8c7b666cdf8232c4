"""Processors, memory, torch and GPUs of this machine."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsmoe.config import ModelConfig
from dsmoe.doctor.finding import Finding, ask, module, ok, trouble, warning
from dsmoe.usage import processors

LITTLE_MEMORY = 2e9
"""Bytes; a comparison on the embedded model takes 0.9 GB."""
IMPORT = 120
"""Seconds that torch may take to be imported, from a shared file system that is slow."""


def machine(model: ModelConfig) -> Iterator[Finding]:
    """What there is to compute with, and whether torch can use it."""
    memory, free = _memory()
    said = f"{memory / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB of it free"
    if free < LITTLE_MEMORY:
        yield warning(said, "end what else runs here; dsmoe plan says what a model needs")
    else:
        yield ok(said)
    answer = ask(*module("devices"), seconds=IMPORT)
    if answer.failure:
        yield trouble(f"torch does not work: {answer.failure}", "python -m pip install --force-reinstall torch")
        return
    torch = json.loads(answer.said.splitlines()[-1])
    yield _threads(torch, model)
    yield from _gpus(torch, model)


def _memory() -> tuple[int, int]:
    """Bytes of memory, and of those that are free or could be at once, where the system tells."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    table = Path("/proc/meminfo")
    if not table.exists():
        return memory, memory
    lines = dict(line.split(":") for line in table.read_text(encoding="ascii").splitlines())
    return memory, int(lines["MemAvailable"].split()[0]) * 1024


def _threads(torch: dict[str, Any], model: ModelConfig) -> Finding:
    threads, allowed = model.threads or torch["threads"], processors()
    said = f"torch {torch['version']} with {threads} of {allowed} processors"
    if threads > allowed:
        return warning(f"{said}: more threads than these run more slowly", f"model.threads={allowed}")
    return ok(said)


def _gpus(torch: dict[str, Any], model: ModelConfig) -> Iterator[Finding]:
    tool = (
        ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if shutil.which("nvidia-smi") else None
    )
    drivers = tool.said.split() if tool is not None and not tool.failure else []
    for number, gpu in enumerate(torch["gpus"]):
        driver = f", driver {drivers[0]}" if drivers else ""
        said = f"GPU {number}: {gpu['name']}, {gpu['memory'] / 1e9:.1f} GB{driver}"
        if gpu["bf16"]:
            yield ok(f"{said}, bfloat16")
        elif model.dtype == "bfloat16":
            yield warning(f"{said}, no bfloat16, which model.dtype is", "model.dtype=float16, or float32")
        else:
            yield ok(f"{said}, no bfloat16")
    if torch["gpus"]:
        return
    if drivers:
        yield trouble(
            f"nvidia-smi lists GPUs ({len(drivers)}), but torch {torch['version']} sees none",
            _hidden(torch, drivers[0]),
        )
    elif model.device == "cuda":
        yield trouble(
            "model.device is cuda, but there is no GPU", "model.device=auto takes the CPU where there is none"
        )
    elif tool is not None:
        yield warning(
            f"no GPU: nvidia-smi: {tool.failure or 'lists none'}",
            "a login node may have none; where there should be one, its driver is not loaded",
        )
    else:
        yield ok("no GPU: models run on the CPU")


def _hidden(torch: dict[str, Any], driver: str) -> str:
    """How to mend that torch sees no GPU where there is one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES is '{visible}': unset it, or name GPUs that are there"
    if torch["built_for"] is None:
        return "this torch is built without CUDA: install one that is built with it, as pytorch.org says"
    return f"driver {driver} is too old for CUDA {torch['built_for']}: a newer driver, or a torch for an older CUDA"
