"""Rows of a data set on the Hub, or of a local file that has the same fields."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dsmoe.config import Origin
from dsmoe.domains.read import rows_of
from dsmoe.errors import InputError


def rows(origin: Origin, hub: str, split: str, name: str | None = None) -> Iterator[tuple[str, Any]]:
    """(where, row) of a split of the data set `hub`, or of the file at the origin's path. Raises InputError."""
    if origin.path is not None:
        return rows_of(Path(origin.path))
    return ((f"{hub}: row {number}", row) for number, row in enumerate(download(origin, hub, split, name)))


def download(origin: Origin, path: str, split: str, name: str | None = None) -> Iterable[dict[str, Any]]:
    """The rows of a split of the data set at `path`, on the Hub or a copy of its repository, `name` its subset.

    Raises InputError in one line where they cannot be had.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(path, name, split=split, revision=origin.revision)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{origin.key}.path: {origin.source} cannot be had from {path}: {reason}") from error


def renamed(row: Any, names: Mapping[str, str]) -> Any:
    """The row with its fields called by our names; where one is missing, the ValueError that says so."""
    if not isinstance(row, Mapping):
        return row
    if missing := [name for name in names if row.get(name) is None]:
        return ValueError(f"field {missing[0]!r} is missing")
    return {ours: row[name] for name, ours in names.items()}
