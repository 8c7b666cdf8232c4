"""Evaluation: one task, one model as it stands, through lm-eval; a sample for every question."""

import logging
from collections.abc import Callable
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from dsmoe.evaluation.samples import Sample
from dsmoe.evaluation.task import Task
from dsmoe.models.load import LoadedModel

FEW_SHOT_SEED = 1234
log = logging.getLogger(__name__)


def evaluate(
    loaded: LoadedModel,
    task: Task,
    method: str,
    metric: str,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Sample]:
    """Ask the model every question of the task; samples, labelled `method`, in the order of lm-eval's documents.

    One call a task, at a fixed batch size and without lm-eval's cache of answers, which knows nothing of steering.
    `progress(done, total)` counts sequences. Raises RuntimeError where lm-eval answers other questions than asked.
    """
    manager = TaskManager(include_defaults=False, include_path=str(task.folder) if task.folder else None)
    tasks = manager.load([task.config])
    for lm_eval_task in tasks["tasks"].values():
        lm_eval_task.set_fewshot_seed(FEW_SHOT_SEED)
    answers = lm_eval.evaluate(
        lm=_WatchedModel(loaded, batch_size, progress),
        task_dict=tasks,
        samples={task.name: task.documents} if task.documents is not None else None,
        bootstrap_iters=0,
    )["samples"][task.name]
    records = {record.id: record for record in task.records}
    asked = sorted(str(answer["doc"][task.id_field]) for answer in answers)
    if asked != sorted(records):
        raise RuntimeError(f"{task.name} on {task.domain}: lm-eval asked other questions than the test split's")
    samples = []
    for answer in sorted(answers, key=lambda answer: int(answer["doc_id"])):
        record = records[str(answer["doc"][task.id_field])]
        responses = answer["filtered_resps"]
        generated = isinstance(responses[0], str)
        samples.append(
            Sample(
                method=method,
                task=task.label,
                domain=task.domain,
                doc_id=int(answer["doc_id"]),
                doc_hash=answer["doc_hash"],
                record_id=record.id,
                num_options=len(record.options),
                answer=record.answer,
                log_likelihoods=None if generated else tuple(float(response[0]) for response in responses),
                response=answer["resps"][0][0] if generated else None,
                score=float(answer[metric]),
            )
        )
    return samples


class _WatchedModel(HFLM):  # type: ignore[misc]
    """lm-eval's model of a loaded transformers model, with our progress in place of its bar."""

    def __init__(self, loaded: LoadedModel, batch_size: int, progress: Callable[[int, int], None]) -> None:
        super().__init__(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size)
        self._progress = progress
        self._done = self._total = 0

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> Any:
        self._done, self._total = 0, len(requests)
        too_long = sum(len(context) + len(answer) > self.max_length + 1 for _, context, answer in requests)
        if too_long:
            log.warning(
                "%d of %d prompts are longer than the model's context and lose their start", too_long, self._total
            )
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
        self._done, self._total = 0, len(requests)
        return super().generate_until(requests, disable_tqdm=True)

    def _model_call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return self._counted(inputs, super()._model_call(inputs, *args, **kwargs))

    def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
        return self._counted(context, super()._model_generate(context, *args, **kwargs))

    def _counted(self, inputs: Any, output: Any) -> Any:
        self._done += len(inputs)
        self._progress(min(self._done, self._total), self._total)
        return output
