"""A checkpoint on disk or on the Hub: what it is, before a single weight is loaded."""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dsmoe.config import ModelConfig
from dsmoe.errors import InputError
from dsmoe.models.routers import check_family

Held = tuple[tuple[str, int, int], ...]
"""What a folder holds, without reading it: its files' names, sizes and times of change."""
OTHER_WEIGHTS = {".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx"}
"""Weights in forms that are not read."""
LEFT_OUT = ["*/*", *(f"*{suffix}" for suffix in sorted(OTHER_WEIGHTS))]
"""Of a download: folders, which hold the same weights in other forms, and such files."""


def identity(config: ModelConfig) -> dict[str, Any]:
    """What pins the weights: a hash of a folder's content, or a Hub name with its commit.

    Raises InputError for what is no safetensors checkpoint of a family whose routers are known.
    """
    if is_local(config):
        check_folder(Path(config.path or ""))
        return {"content": content_of(Path(config.path or ""))}
    model_config(config)
    from transformers.utils import cached_file

    # The Hub's cache calls the folder of a snapshot by its commit.
    snapshot = Path(cached_file(config.path, "config.json", revision=config.revision)).parent
    return {"hub": config.path, "commit": snapshot.name}


def files(config: ModelConfig) -> Path:
    """The folder with a checkpoint's files; those of a Hub model are downloaded, if they are not here already.

    Raises InputError where they cannot be had, or are no safetensors checkpoint of a family whose routers are known.
    """
    from huggingface_hub import snapshot_download

    folder = Path(config.path or "")
    if not is_local(config):
        try:
            folder = Path(snapshot_download(str(config.path), revision=config.revision, ignore_patterns=LEFT_OUT))
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"model.path: {config.path} cannot be had from the Hub: {reason}") from error
    check_folder(folder)
    return folder


def is_local(config: ModelConfig) -> bool:
    """Whether `model.path` means a folder here; on the Hub, names have the form owner/name."""
    path = config.path or ""
    return Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") != 1


def model_config(config: ModelConfig) -> Any:
    """The transformers config at `model.path`. Raises InputError where it cannot be had or its routers are unknown."""
    from transformers import AutoConfig

    from dsmoe.models import deepseek

    where = f"model.path: {config.path}"
    deepseek.register()
    try:
        found = AutoConfig.from_pretrained(
            config.path or "", revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{where} is no folder here and cannot be had from the Hub: {reason}") from error
    check_family(found.model_type, where)
    return found


def held_by(config: ModelConfig) -> Held | None:
    """What the model's folder holds, hidden files left out; None where it has none, or it is on the Hub."""
    return _held(Path(config.path)) if config.path is not None and is_local(config) else None


def check_folder(folder: Path) -> None:
    """Raise InputError unless the folder holds a config of a known family, a tokenizer and whole safetensors."""
    _check_folder(folder, _held(folder))


@lru_cache
def _check_folder(folder: Path, held: Held) -> None:
    """The same, once in a process while what the folder holds stays the same."""
    where = f"model.path: {folder}"
    check_config(folder)
    weights = [folder / name for name, *_ in held if name.endswith(".safetensors")]
    if not weights:
        pickled = " (pickled weights are not read: convert them)" if list(folder.glob("*.bin")) else ""
        raise InputError(f"{where} has no *.safetensors{pickled}")
    for path in weights:
        try:
            # safetensors says of a file that may not be read that it is not there.
            with path.open("rb"), safe_open(path, framework="pt") as file:
                file.keys()
        except SafetensorError as error:
            raise InputError(f"model.path: {path} is not a whole safetensors file: {error}") from error
    _check_index(folder, {path.name for path in weights})
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"{where} has no tokenizer (tokenizer.json, tokenizer.model or vocab.json)")


def check_config(folder: Path) -> None:
    """Raise InputError unless the folder holds the config of a known family; weights may be missing."""
    where = f"model.path: {folder}"
    if not folder.is_dir():
        raise InputError(f"{where} is not a folder")
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{where} is not a checkpoint: it has no config.json") from None
    except ValueError as error:
        raise InputError(f"{where}/config.json is not JSON: {error}") from error
    if not isinstance(content, dict) or "model_type" not in content:
        raise InputError(f"{where}/config.json names no model_type")
    check_family(content["model_type"], where)


def _check_index(folder: Path, present: set[str]) -> None:
    path = folder / "model.safetensors.index.json"
    if not path.exists():
        return
    try:
        named = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"model.path: {path} is not an index of safetensors") from error
    if missing := sorted(named - present):
        raise InputError(f"model.path: {folder} lacks {missing[0]}, which its index names")


def content_of(path: Path) -> str:
    """A hash of a file's content, or of the names and contents of a folder's files, hidden ones left out."""
    if path.is_file():
        return _file_hash(path, path.stat().st_size, path.stat().st_mtime_ns)
    return _folder_hash(path, _held(path))


def _held(folder: Path) -> Held:
    if not folder.is_dir():
        return ()
    held = [(entry.name, entry.stat()) for entry in os.scandir(folder) if entry.is_file() and entry.name[0] != "."]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in held))


@lru_cache
def _folder_hash(folder: Path, held: Held) -> str:
    lines = (f"{name} {_file_hash(folder / name, size, modified)}" for name, size, modified in held)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@lru_cache(maxsize=4096)
def _file_hash(path: Path, size: int, modified: int) -> str:
    """A hash of a file's bytes, taken once in a process while its size and time stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
