"""Methods that find the answer to each question once for each object."""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

Asked = TypeVar("Asked")
Arguments = ParamSpec("Arguments")
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
