"""Evaluation: one task, one model as it stands, through lm-eval; a sample for every answer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lm_eval
import torch
from lm_eval.tasks import TaskManager

from dsmoe.config import BenchmarkConfig, GenerationConfig
from dsmoe.evaluation.engine import Engine
from dsmoe.evaluation.engine_model import EngineModel
from dsmoe.evaluation.samples import Sample
from dsmoe.evaluation.task import Task
from dsmoe.evaluation.watched import WatchedModel
from dsmoe.models.load import LoadedModel
from dsmoe.provenance import stable_hash

FEW_SHOT_SEED = 1234


def evaluate(
    loaded: LoadedModel | Engine,
    task: Task,
    method: str,
    benchmark: BenchmarkConfig,
    generation: GenerationConfig,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Sample]:
    """Ask the model every question of the task; samples, labelled `method`, in the order of lm-eval's documents.

    One call a task, at a fixed batch size and without lm-eval's cache of answers, which knows nothing of steering.
    Where questions have several samples, the whole task is asked again for each, sampled from `seed` and the sample's
    number. `progress(done, total)` counts sequences. Raises RuntimeError where lm-eval answers other questions than
    asked.
    """
    manager = TaskManager(include_defaults=False, include_path=str(task.folder) if task.folder else None)
    tasks = manager.load([task.config])
    for lm_eval_task in tasks["tasks"].values():
        lm_eval_task.set_fewshot_seed(FEW_SHOT_SEED)
        if lm_eval_task.OUTPUT_TYPE == "generate_until":
            lm_eval_task.set_config(
                key="generation_kwargs", value=_generation_kwargs(benchmark, generation), update=True
            )
    if isinstance(loaded, Engine):
        model: EngineModel | WatchedModel = EngineModel(loaded, progress)
    else:
        model = WatchedModel(loaded, benchmark.batch_size, generation, progress)
    samples = []
    for repeat in range(generation.samples):
        with _seeded(seed, repeat):
            answers = lm_eval.evaluate(
                lm=model,
                task_dict=tasks,
                samples={task.name: task.documents} if task.documents is not None else None,
                bootstrap_iters=0,
                system_instruction=generation.system_prompt,
                apply_chat_template=generation.chat_template,
                fewshot_as_multiturn=generation.chat_template,
            )["samples"][task.name]
        samples += _samples(task, method, benchmark.metric, repeat, answers, model)
    return sorted(samples, key=lambda sample: (sample.doc_id, sample.repeat))


def _samples(
    task: Task, method: str, metric: str, repeat: int, answers: list[dict[str, Any]], model: EngineModel | WatchedModel
) -> list[Sample]:
    """One sample of each of the task's records, as lm-eval logs them."""
    answers = [answer for answer in answers if answer["filter"] == task.filter]
    records = {record.id: record for record in task.records}
    asked = sorted(str(answer["doc"][task.id_field]) for answer in answers)
    if asked != sorted(records):
        raise RuntimeError(f"{task.name} on {task.domain}: lm-eval asked other questions than the test split's")
    samples = []
    for answer in answers:
        record = records[str(answer["doc"][task.id_field])]
        responses = answer["filtered_resps"]
        generated = isinstance(responses[0], str)
        response = answer["resps"][0][0] if generated else ""
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
                repeat=repeat,
                response=response if generated else None,
                truncated=model.was_truncated(answer["arguments"][0][0]) if generated else None,
                answered=task.answered(response, responses[0]) if generated else None,
                score=float(answer[metric]),
            )
        )
    return samples


def _generation_kwargs(benchmark: BenchmarkConfig, generation: GenerationConfig) -> dict[str, Any]:
    """What lm-eval is told over the task's own settings."""
    kwargs: dict[str, Any] = {"max_gen_toks": benchmark.max_new_tokens, "do_sample": False, "temperature": 0.0}
    if generation.temperature:
        kwargs |= {"do_sample": True, "temperature": generation.temperature}
        kwargs |= {"top_p": generation.top_p, "top_k": generation.top_k or 0}
    if generation.think_end is not None:
        # lm-eval stops at these words wherever they stand; a thinking may well say "Question:".
        kwargs["until"] = []
    return kwargs


@contextmanager
def _seeded(seed: int, repeat: int) -> Iterator[None]:
    """Random numbers that depend on these alone; those outside stay as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(stable_hash([seed, repeat])[:15], base=16))
        yield
