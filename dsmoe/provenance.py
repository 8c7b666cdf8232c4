"""What runs here: versions, commit, the code itself; and a hash that says whether two things are the same."""

import hashlib
import json
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("dsmoe", "torch", "transformers", "lm_eval", "peft", "trl", "hydra-core", "numpy")


def stable_hash(content: Any) -> str:
    """A short hash of anything that JSON can hold; keys' order does not matter."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@cache
def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@cache
def git_commit() -> str | None:
    """The commit that the package runs from, None where it was installed or there is no git."""
    here = Path(__file__)
    # A repository that does not hold this file is whoever's the package was installed below.
    asked = ["git", "rev-parse", "HEAD", f"HEAD:./{here.name}"]
    try:
        found = subprocess.run(asked, cwd=here.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.split()[0]


@cache
def code_hash() -> str:
    """A hash of the package's own code, which can change where its commit does not."""
    package = Path(__file__).parent
    return stable_hash(
        {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in package.rglob("*.py")}
    )
