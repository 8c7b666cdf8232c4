"""Source files and their languages, from Pygments, and the status codes of HTTP."""

import re
from http import HTTPStatus

from pygments.lexers import get_all_lexers

from dsmoe.domains.world import Fact

# Python 3.13 renamed these four, so they would differ between interpreters.
RENAMED = (413, 414, 416, 422)
PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 #]*")
PLAIN_EXTENSION = re.compile(r"\*\.([a-z][a-z0-9]*)")


def facts() -> list[Fact]:
    """The language behind one file extension each, and the meaning of HTTP's status codes."""
    return [
        *(
            Fact(
                "extension",
                f".{extension}",
                f"Source files ending in .{extension} are written in",
                language,
                (f"The extension .{extension} belongs to",),
            )
            for extension, language in _extensions()
        ),
        *(
            Fact(
                "status",
                f"HTTP {status.value}",
                f"The HTTP status code {status.value} means",
                status.phrase,
                (f"A server that answers {status.value} says",),
            )
            for status in HTTPStatus
            if status.value not in RENAMED
        ),
    ]


def _extensions() -> list[tuple[str, str]]:
    languages: dict[str, list[str]] = {}
    for name, _, patterns, _ in get_all_lexers(plugins=False):
        for pattern in patterns:
            if match := PLAIN_EXTENSION.fullmatch(pattern):
                languages.setdefault(match[1], []).append(name)
    found: dict[str, str] = {}
    for extension, (name, *others) in sorted(languages.items()):
        if not others and PLAIN_NAME.fullmatch(name) and not _tells(extension, name):
            found.setdefault(name, extension)
    return sorted((extension, name) for name, extension in found.items())


def _tells(extension: str, name: str) -> bool:
    letters = name.replace(" ", "").lower()
    return extension in letters or letters in extension
