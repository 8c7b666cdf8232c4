"""Passages: the texts that a model is observed on, each of a domain."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsmoe.domains.prompts import discovery_prompt
from dsmoe.domains.records import Record, canonical_order
from dsmoe.errors import InputError

SUFFIX = ".txt"
LONGEST = 2000
"""Letters of a passage: prose may run for pages without a blank line, and a model's context ends."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One text; `group` names what it is about, or where it stands, and `id` tells it from all others."""

    id: str
    domain: str
    group: str
    text: str


def from_records(records: Iterable[Record]) -> list[Passage]:
    """The prompts that experts are discovered on."""
    return [Passage(r.id, r.domain, r.group, discovery_prompt(r)) for r in canonical_order(records)]


def from_folder(folder: Path) -> list[Passage]:
    """The paragraphs of a folder's files, a domain a file, named by it; blank lines stand between paragraphs.

    One of more than 2,000 letters is cut at white space into passages of one group.

    Raises InputError, naming folder or file, where there are fewer than two files, one cannot be read, or has no text.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder of texts")
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) < 2:
        raise InputError(f"{folder}: holds {len(files)} files *{SUFFIX}; an analysis wants two or more, one a domain")
    return [passage for file in files for passage in _paragraphs(file)]


def _paragraphs(file: Path) -> list[Passage]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8: byte {error.start} is wrong") from error
    paragraphs: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    found = ["\n".join(lines) for lines in paragraphs if lines]
    if not found:
        raise InputError(f"{file}: has no text")
    passages = []
    for number, paragraph in enumerate(found, start=1):
        name, pieces = f"{file.stem}-{number}", _pieces(paragraph)
        ids = [name] if len(pieces) == 1 else [f"{name}.{piece}" for piece in range(1, len(pieces) + 1)]
        passages += [Passage(id_, file.stem, name, piece) for id_, piece in zip(ids, pieces, strict=True)]
    return passages


def _pieces(paragraph: str) -> list[str]:
    """The paragraph in pieces of at most LONGEST letters, cut where there is white space, if there is any."""
    pieces = []
    while len(paragraph) > LONGEST:
        spaces = [match.start() for match in re.finditer(r"\s", paragraph[: LONGEST + 1])]
        cut = spaces[-1] if spaces and spaces[-1] else LONGEST
        pieces.append(paragraph[:cut])
        paragraph = paragraph[cut:].lstrip()
    return [*pieces, paragraph] if paragraph else pieces


def limited(passages: Sequence[Passage], limit: int | None) -> list[Passage]:
    """The first `limit` of each domain, None for all."""
    seen: dict[str, int] = {}
    kept = []
    for passage in passages:
        seen[passage.domain] = seen.get(passage.domain, 0) + 1
        if limit is None or seen[passage.domain] <= limit:
            kept.append(passage)
    return kept


def domains_of(passages: Iterable[Passage]) -> tuple[str, ...]:
    """Their domains, in alphabetical order."""
    return tuple(sorted({passage.domain for passage in passages}))


def content_hash(passages: Iterable[Passage]) -> str:
    """A hash of what they say."""
    found = hashlib.sha256()
    for passage in passages:
        line = json.dumps([passage.id, passage.domain, passage.group, passage.text], ensure_ascii=False)
        found.update(line.encode() + b"\n")
    return found.hexdigest()[:20]
