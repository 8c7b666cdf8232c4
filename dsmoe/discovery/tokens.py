"""Which tokens may be important: what a token's own text says, before any saliency."""

import string
import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmoe.errors import InputError

UNSEEN, IGNORED, PLAIN, CONTENT = range(4)
"""Kinds of token: special or white space, in no count; stop words and punctuation, never important; all others."""


class TokenKinds:
    """The kind of every token id, looked up once an id."""

    def __init__(self, tokenizer: Any, stop_words: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self._stop_words = frozenset(word.lower() for word in stop_words)
        self._special = frozenset(tokenizer.all_special_ids)
        self._kinds = np.full(len(tokenizer), UNSEEN, dtype=np.uint8)

    def __call__(self, ids: NDArray[np.int32]) -> NDArray[np.uint8]:
        """The kinds of token ids [tokens]."""
        # Models have more ids than their tokenizers know of, and may generate them.
        if more := max(0, int(ids.max(initial=0)) + 1 - len(self._kinds)):
            self._kinds = np.append(self._kinds, np.full(more, UNSEEN, dtype=np.uint8))
        for token in np.unique(ids[self._kinds[ids] == UNSEEN]):
            self._kinds[token] = self._kind(int(token))
        return self._kinds[ids]

    def _kind(self, token: int) -> int:
        text = self._tokenizer.decode([token]).strip().lower()
        if token in self._special or not text:
            return IGNORED
        return PLAIN if text in self._stop_words or all(map(_is_punctuation, text)) else CONTENT


def read_stop_words(stop_words: str | Iterable[str]) -> list[str]:
    """`english` (scikit-learn's list), the lines of a file, or the words themselves; sorted, in lower case.

    Raises InputError for a file that cannot be read.
    """
    if stop_words == "english":
        return list(_english())
    if isinstance(stop_words, str):
        try:
            stop_words = Path(stop_words).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"discovery.stop_words: {stop_words!r} is neither 'english' nor a readable file of words: {error}"
            ) from error
    return sorted({word.lower() for word in stop_words})


@cache
def _english() -> tuple[str, ...]:
    """scikit-learn's list. Its file alone is run: importing the package for it would take every command a second."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    listed = run_path(str(Path(package.origin).with_name("feature_extraction") / "_stop_words.py"))
    return tuple(sorted(word.lower() for word in listed["ENGLISH_STOP_WORDS"]))


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
