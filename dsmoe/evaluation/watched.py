"""lm-eval's model of a loaded transformers model, watched: how far it is, and which of its answers were cut off."""

import logging
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from lm_eval.models.huggingface import HFLM

from dsmoe.config import GenerationConfig
from dsmoe.models.load import LoadedModel

log = logging.getLogger(__name__)


class WatchedModel(HFLM):  # type: ignore[misc]
    """Answers as HFLM does, to the bit, with `progress(done, total)` in place of its bar."""

    def __init__(
        self,
        loaded: LoadedModel,
        batch_size: int,
        generation: GenerationConfig,
        progress: Callable[[int, int], None],
    ) -> None:
        super().__init__(
            pretrained=loaded.model,
            tokenizer=loaded.tokenizer,
            batch_size=batch_size,
            chat_template_args=dict(generation.template_args),
            think_end_token=generation.think_end,
        )
        self._progress = progress
        self._done = self._total = 0
        self._batch: deque[bool] = deque()
        self._truncated: defaultdict[str, deque[bool]] = defaultdict(deque)

    def was_truncated(self, context: str) -> bool:
        """Whether the answer to this context reached the limit without an end; each answer is asked for once.

        Answers to the same context come in the order of its requests.
        """
        return self._truncated[context].popleft()

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
        """The same without HFLM's bar."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> Any:
        self._begin(len(requests), sum(len(c) + len(a) > self.max_length + 1 for _, c, a in requests))
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
        """The same without HFLM's bar; what was cut off is kept for `was_truncated`."""
        room = self.max_length - int(requests[0].args[1]["max_gen_toks"])
        self._begin(len(requests), sum(len(self.tok_encode(one.args[0])) > room for one in requests))
        # HFLM tells its cache each answer, in the order in which it made them.
        self.cache_hook = self
        return super().generate_until(requests, disable_tqdm=True)

    def add_partial(self, attribute: str, request: tuple[str, Any], answer: str) -> None:
        """Keep what became of an answer, by its context: HFLM's hook for a cache."""
        self._truncated[request[0]].append(self._batch.popleft())

    def _begin(self, total: int, too_long: int) -> None:
        self._done, self._total = 0, total
        warn_of_cut(too_long, total)

    def _model_call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return self._counted(inputs, super()._model_call(inputs, *args, **kwargs))

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **kwargs: Any) -> Any:
        output = super()._model_generate(context, max_length=max_length, stop=stop, **kwargs)
        ends = self.model.generation_config.eos_token_id
        known = {self.eot_token_id, *(ends if isinstance(ends, list) else [ends])}
        for answer in output[:, context.shape[1] :].tolist():
            full = len(answer) >= max_length - context.shape[1] and not known.intersection(answer)
            self._batch.append(full and not any(word in self.tok_decode(answer) for word in stop))
        return self._counted(context, output)

    def _counted(self, inputs: Any, output: Any) -> Any:
        self._done += len(inputs)
        self._progress(min(self._done, self._total), self._total)
        return output


def warn_of_cut(too_long: int, total: int) -> None:
    """Say how many prompts lose their start, where some do."""
    if too_long:
        log.warning("%d of %d prompts are longer than the model's context and lose their start", too_long, total)
