"""The Hugging Face Hub: its cache, whether it may be asked, whether it answers, and whether the model can be had."""

import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from dsmoe.config import ModelConfig
from dsmoe.doctor.finding import Finding, bounded, ok, trouble, warning
from dsmoe.doctor.folder import nearest

PATIENCE = 3
LITTLE_ROOM = 2e10
"""Bytes of the smallest of the paper's checkpoints, and some."""
WEIGHTS = ("model.safetensors.index.json", "model.safetensors")


def hub(model: ModelConfig) -> Iterator[Finding]:
    """Where downloads go, and whether what the config names is there or can be had."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    late = warning(f"the cache of the Hub, {cache}, does not answer", "HF_HOME=FOLDER names another file system")
    yield from bounded(lambda: _cache(cache), 30, late)
    if constants.HF_HUB_OFFLINE:
        yield ok("HF_HUB_OFFLINE is set: the Hub is not asked, and what is in the cache is all there is")
        reachable = False
    else:
        silent = _silent(constants.ENDPOINT, f"no answer within {PATIENCE} s")
        (answer,) = bounded(lambda: _reach(constants.ENDPOINT), PATIENCE + 1, silent)
        yield answer
        reachable = answer.level == "ok"
    if model.path is not None and not Path(model.path).exists():
        path = model.path
        yield from bounded(lambda: [_model(path, model.revision, reachable)], 30, late)


def _cache(cache: Path) -> Iterator[Finding]:
    where = nearest(cache)
    free = shutil.disk_usage(where).free
    said = f"the Hub's cache is {cache}, with {free / 1e9:.1f} GB free"
    if not os.access(where, os.W_OK):
        yield warning(f"{said}, but nothing may be written to it", "HF_HOME=FOLDER names a folder of your own")
    elif free < LITTLE_ROOM:
        yield warning(
            said, "HF_HOME=FOLDER names a folder with room for checkpoints; dsmoe plan says how large they are"
        )
    else:
        yield ok(said)


def _reach(endpoint: str) -> Iterator[Finding]:
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE):
            yield ok(f"{endpoint} answers")
    except urllib.error.HTTPError as error:
        yield ok(f"{endpoint} answers, with status {error.code}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        yield _silent(endpoint, _reason(error))


def _reason(error: Exception) -> str:
    """The innermost word on it: urllib wraps what the socket said."""
    inner = getattr(error, "reason", error)
    return getattr(inner, "strerror", None) or str(inner)


def _silent(endpoint: str, reason: str) -> Finding:
    return warning(
        f"{endpoint} cannot be reached: {reason}",
        "without a network: fill HF_HOME where there is one, and set HF_HUB_OFFLINE=1; behind a proxy: set HTTPS_PROXY",
    )


def _model(name: str, revision: str | None, reachable: bool) -> Finding:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        held = {
            file for file in ("config.json", *WEIGHTS)
            if isinstance(try_to_load_from_cache(name, file, revision=revision), str)
        }  # fmt: skip
    except HFValidationError:
        return trouble(
            f"model.path: {name} is no folder here, nor could it be a model's name on the Hub",
            "model.path=FOLDER, or owner/name",
        )
    if "config.json" in held and not held.isdisjoint(WEIGHTS):
        return ok(f"model.path: {name} is in the cache")
    fetch = f"hf download {name}{f' --revision {revision}' if revision else ''}"
    if reachable:
        return ok(f"model.path: {name} is not in the cache, and comes from the Hub on first use, or by {fetch}")
    return trouble(
        f"model.path: {name} is not in the cache, and the Hub cannot be asked",
        f"where there is a network, with the same HF_HOME: {fetch}",
    )
