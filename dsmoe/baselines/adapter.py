"""The folder of a LoRA adapter: `adapter_config.json` and `adapter_model.safetensors`, as peft writes them."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dsmoe.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PLAIN_STARTS = (True, False, "gaussian", "eva")


def check_adapter(folder: Path) -> None:
    """Raise InputError unless `folder` holds a whole LoRA adapter in safetensors; reads no weights and no model."""
    where = f"sft.adapter: {folder}"
    if not folder.is_dir():
        raise InputError(f"{where} is not a folder")
    content = _config(folder)
    if content.get("peft_type") != "LORA":
        raise InputError(f"{where}/{CONFIG}: peft_type is {content.get('peft_type')!r}; allowed is 'LORA'")
    start = content.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise InputError(
            f"{where}/{CONFIG}: init_lora_weights {start!r} changes the base model's own weights; convert the adapter "
            f"to plain LoRA (path_initial_model_for_weight_conversion of peft's save_pretrained)"
        )
    if not (folder / WEIGHTS).exists():
        pickled = " (pickled weights are not read: convert them)" if list(folder.glob("*.bin")) else ""
        raise InputError(f"{where} has no {WEIGHTS}{pickled}")
    try:
        # safetensors says of a file that may not be read that it is not there.
        with (folder / WEIGHTS).open("rb"), safe_open(folder / WEIGHTS, framework="numpy") as file:
            names = list(file.keys())
    except SafetensorError as error:
        raise InputError(f"{where}/{WEIGHTS} is not a whole safetensors file: {error}") from error
    if not any(".lora_" in name for name in names):
        raise InputError(f"{where}/{WEIGHTS} holds no LoRA weights")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"sft.adapter: {folder} is no adapter: it has no {CONFIG}") from None
    except ValueError as error:
        raise InputError(f"sft.adapter: {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"sft.adapter: {path} is not a JSON object")
    return content
