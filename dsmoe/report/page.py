"""The page: everything in one HTML file that needs nothing else, neither the network nor the files beside it."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dsmoe.report.analyses import Analysis
from dsmoe.report.answers import QUESTION, answers
from dsmoe.report.collection import Collection, Entry
from dsmoe.report.figure import Figure
from dsmoe.report.flips import Flips
from dsmoe.report.overview import Overview
from dsmoe.report.repeat import command
from dsmoe.report.sentences import sentences
from dsmoe.report.table import note, tables


@dataclass(frozen=True)
class Detail:
    """One cell in full: its figures, and which questions flipped."""

    entry: Entry
    figures: Sequence[Figure]
    flips: Sequence[Flips]

    @property
    def tables(self) -> Any:
        """Title, columns and lines of each table."""
        return tables(self.entry.results)

    @property
    def sentences(self) -> list[str]:
        """What stands under the tables."""
        return sentences(self.entry.results)

    @property
    def note(self) -> str:
        """What the numbers are."""
        return note(self.entry.results)

    @property
    def command(self) -> str:
        """What makes the cell again."""
        return command(self.entry.results.config)

    @property
    def config(self) -> str:
        """The whole config."""
        return yaml.safe_dump(self.entry.results.config, sort_keys=True, allow_unicode=True)

    @property
    def made(self) -> list[tuple[str, str]]:
        """What made the cell, from what."""
        of = self.entry.results.provenance
        facts = [("cell", self.entry.id), ("git commit", of.get("git_commit") or "not known")]
        facts += [
            (f"{name} {split}", str(value)) for name in ("data", "questions") for split, value in of[name].items()
        ]
        facts += [("model", yaml.safe_dump(of["model"], default_flow_style=True, width=1000).strip())]
        facts += [("platform", str(of["platform"]))]
        return facts + [(package, version) for package, version in of["versions"].items()]


def page(
    title: str,
    collection: Collection,
    overview: Overview,
    figures: Sequence[Figure],
    details: Sequence[Detail],
    evidence: Sequence[Analysis],
    folder: Path,
) -> str:
    """The whole page; the figures lie drawn below `folder`."""
    environment = _environment()
    style, script = (_source(name) for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        title=title,
        question=QUESTION,
        answers=answers(collection),
        collection=collection,
        overview=overview,
        figures=figures,
        details=details,
        shown={detail.entry.id[:8] for detail in details},
        evidence=evidence,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        drawing=lambda figure: _drawing(folder / f"{figure.name}.svg"),
        drawing_at=_drawing,
    )


@cache
def _environment() -> Environment:
    loader = PackageLoader("dsmoe.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _source(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names what it lets through."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _drawing(path: Path) -> str:
    """An SVG as the source of an image: there it can neither run anything nor load anything."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
