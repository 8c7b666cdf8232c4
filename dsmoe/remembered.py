"""Answers that are found once: by a method for each object, or by a function for the process."""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

Asked = TypeVar("Asked")
Arguments = ParamSpec("Arguments")
Question = TypeVar("Question", bound=tuple[Any, ...])
Answer = TypeVar("Answer")


def remembered(
    method: Callable[Concatenate[Asked, Arguments], Answer],
) -> Callable[Concatenate[Asked, Arguments], Answer]:
    """A method whose answers stay with their object, by the positional arguments; these must be hashable."""
    name = f"_{method.__name__}_answers"

    @wraps(method)
    def answer(self: Asked, /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Answer:
        known: dict[Hashable, Answer] = self.__dict__.setdefault(name, {})
        question = (arguments, *named.items()) if named else arguments
        if question not in known:
            known[question] = method(self, *arguments, **named)
        return known[question]

    return answer


class Answers(dict[Question, Answer]):
    """A function's answers by its arguments: one that is missing is found, and others may be brought along."""

    def __init__(self, find: Callable[..., Answer]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, question: Question) -> Answer:
        answer = self[question] = self._find(*question)
        return answer
