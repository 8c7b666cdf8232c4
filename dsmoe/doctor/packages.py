"""Python and the packages, against the ranges that dsmoe declares."""

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dsmoe.doctor.finding import Finding, ok, trouble

SHOWN = ("torch", "transformers", "lm-eval", "peft", "trl")


def packages() -> Iterator[Finding]:
    """Whether what is installed is what dsmoe was made for."""
    try:
        own = metadata.distribution("dsmoe")
    except metadata.PackageNotFoundError:
        yield trouble(
            "dsmoe is not installed: it runs from the folder that it was started in, and nowhere else",
            "python -m pip install --editable CHECKOUT",
        )
        return
    here, wanted = platform.python_version(), SpecifierSet(own.metadata["Requires-Python"])
    if wanted.contains(here, prereleases=True):
        yield ok(f"Python {here}, dsmoe {own.version}")
    else:
        yield trouble(f"Python {here} is not {wanted}", "make a new environment with another Python")
    requirements = [Requirement(line) for line in own.requires or []]
    requirements = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    faults = [finding for one in requirements if (finding := _fault(one)) is not None]
    yield from faults
    if not faults:
        shown = ", ".join(f"{name} {metadata.version(name)}" for name in SHOWN)
        yield ok(f"{len(requirements)} packages, all in the ranges that dsmoe is made for: {shown}…")


def _fault(wanted: Requirement) -> Finding | None:
    mend = f"python -m pip install '{wanted.name}{wanted.specifier}'"
    try:
        here = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return trouble(f"{wanted.name} is not installed", mend)
    if wanted.specifier.contains(here, prereleases=True):
        return None
    return trouble(f"{wanted.name} {here} is not {wanted.specifier}", mend)
