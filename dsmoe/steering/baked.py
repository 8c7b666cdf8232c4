"""A steered checkpoint: a copy of one whose routers add a bias of their own to the logits, with ln α in that bias."""

import json
import math
import re
import shutil
import struct
from pathlib import Path

import torch

from dsmoe.errors import InputError
from dsmoe.models.checkpoint import OTHER_WEIGHTS
from dsmoe.steering.steering import Steering

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def bake(checkpoint: Path, bias: str, steering: Steering, folder: Path) -> None:
    """Copy a checkpoint into `folder`, with ln(1 + strength) added to the router biases of the steered experts.

    `bias` leads from a decoder layer to the bias. All other tensors and the files' metadata stay, byte for byte, and
    quantised ones as they are; weights in other forms than safetensors would stay unsteered, and are left out. The sum
    is rounded to the bias's own number type: in bf16, by up to 0.4% of it. Raises InputError for a checkpoint that
    lacks a bias which is wanted.
    """
    missing = set(steering.experts)
    for source in sorted(path for path in checkpoint.iterdir() if path.is_file()):
        if source.name.startswith(".") or source.suffix in OTHER_WEIGHTS:
            continue
        target = folder / source.name
        shutil.copyfile(source, target)
        if source.suffix == ".safetensors":
            missing -= _raise_biases(target, bias, steering)
    if missing:
        raise InputError(f"model.path: {checkpoint} has no weights {bias} in layers {sorted(missing)}")


def _raise_biases(path: Path, bias: str, steering: Steering) -> set[int]:
    """Change the biases in one safetensors file; the layers that they belong to."""
    named = re.compile(rf"(?:^|\.)layers\.(\d+)\.{re.escape(bias)}$")
    changed = set()
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        for name, tensor in json.loads(file.read(length)).items():
            found = named.search(name)
            if found is None or (layer := int(found[1])) not in steering.experts:
                continue
            start, end = (8 + length + offset for offset in tensor["data_offsets"])
            file.seek(start)
            content = bytearray(file.read(end - start))
            _add(content, tensor["dtype"], list(steering.experts[layer]), math.log1p(steering.strength), name)
            file.seek(start)
            file.write(content)
            changed.add(layer)
    return changed


def _add(content: bytearray, dtype: str, experts: list[int], delta: float, name: str) -> None:
    """Add `delta` to some of the numbers that are the content of a tensor."""
    if dtype not in DTYPES:
        raise InputError(f"model.path: {name} is of number type {dtype}, not one of {', '.join(DTYPES)}")
    values = torch.frombuffer(content, dtype=DTYPES[dtype])
    values[experts] = (values[experts].double() + delta).to(values.dtype)
