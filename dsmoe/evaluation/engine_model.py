"""lm-eval's model of an engine of vLLM, watched as `watched.py` watches transformers' models."""

from collections import defaultdict, deque
from typing import Any

import torch
from lm_eval.api.model import LM

from dsmoe.evaluation.engine import Engine, Progress
from dsmoe.evaluation.watched import warn_of_cut


class EngineModel(LM):  # type: ignore[misc]
    """Answers by the engine; says how far it is, and which of its answers were cut off."""

    def __init__(self, engine: Engine, progress: Progress) -> None:
        super().__init__()
        self._engine = engine
        self._progress = progress
        self._truncated: defaultdict[str, deque[bool]] = defaultdict(deque)

    def was_truncated(self, context: str) -> bool:
        """As `WatchedModel.was_truncated`."""
        return self._truncated[context].popleft()

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Of each context and continuation: its log-likelihood, and whether it is the likeliest."""
        asked = [request.args for request in requests]
        # vLLM wants to generate a token, even where none is asked for.
        self._warn(self._engine.max_length - 1, [context + continuation for context, continuation in asked])
        return [tuple(one) for one in self._engine.call("loglikelihood", asked, progress=self._progress)]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """To each context its answer; those that are sampled, from torch's seed and the number of the request."""
        asked = [(context, dict(settings)) for context, settings in (request.args for request in requests)]
        for number, (_, settings) in enumerate(asked):
            if settings.get("temperature"):
                settings["seed"] = (torch.initial_seed() + number) % 2**63
        room = self._engine.max_length - int(asked[0][1]["max_gen_toks"])
        self._warn(room, [context for context, _ in asked])
        answers = self._engine.call("generate_until", asked, progress=self._progress)
        for (context, _), (_, truncated) in zip(asked, answers, strict=True):
            self._truncated[context].append(truncated)
        return [text for text, _ in answers]

    def _warn(self, room: int, texts: list[str]) -> None:
        warn_of_cut(self._engine.call("longer_than", room, texts), len(texts))

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """None of our tasks asks for it."""
        raise NotImplementedError

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as one text."""
        return str(self._engine.call("apply_chat_template", chat_history, add_generation_prompt))

    @property
    def tokenizer_name(self) -> str:
        """Names caches, which we do not use."""
        return ""
