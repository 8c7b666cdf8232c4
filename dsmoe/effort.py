"""The effort of a cell: its stages, in the order in which they are made, and how much work each of them is."""

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from dsmoe.cell import Cell
from dsmoe.config import AUTO, GENERATES, SftConfig
from dsmoe.domains.prompts import discovery_prompt, evaluation_prompt
from dsmoe.methods import candidates, discovers, settings
from dsmoe.models.duration import Work, backward, forward, tokens_of, training
from dsmoe.models.forwards import CHECKPOINTING_FROM
from dsmoe.models.needs import EXAMPLES, Needs, needs
from dsmoe.parts import Part
from dsmoe.provenance import stable_hash
from dsmoe.stage import Stage


@dataclass(frozen=True)
class Effort:
    """One stage, the model that it is done to (a hash, as in `Cell.model_key`), and how much work that is.

    An evaluation asks `method` of `domain`; other stages have neither.
    """

    stage: Stage
    model: str
    work: Work
    method: str = ""
    domain: str = ""

    @property
    def facts(self) -> dict[str, str]:
        """What a journal says of it."""
        return {"method": self.method, "domain": self.domain} if self.method else {}

    def to_json(self) -> dict[str, Any]:
        """The model and the work, as status.json has them."""
        return {"work": {"model": self.model, **asdict(self.work)}}


def efforts(cell: Cell) -> list[Effort]:
    """All stages that the cell stands on, each once, in the order in which they are wanted."""
    config, model, key = cell.config, needs(cell.config, discovers(cell.config)), stable_hash(cell.model_key)
    found = []
    if cell.pretrain is not None:
        pretrain = config.model.pretrain
        assert pretrain is not None
        work = training(model, pretrain.steps * pretrain.batch_tokens, pretrain.steps)
        found.append(Effort(cell.pretrain, key, work))
    for domains in cell.agenda.discovered:
        tokens = _discovery_tokens(cell.inputs.discover_part(domains))
        passes = math.ceil(tokens / config.discovery.batch_tokens)
        found.append(Effort(cell.discover(domains), key, backward(model, tokens, passes, model.checkpointing)))
    found += [Effort(cell.score(one.rule, one.domain), key, Work()) for one in cell.agenda.scored]
    of = settings("sft", config) if config.fine_tunes else None
    for sft in candidates(of) if of is not None else ():
        assert isinstance(sft, SftConfig)
        found.append(Effort(cell.fine_tune(sft), key, _fine_tuning(cell, model, sft)))
    for trial, domain in cell.agenda.asked:
        work = _evaluation(cell, model, trial.split, domain)
        found.append(Effort(cell.evaluate(trial, domain), key, work, trial.name, domain))
    chosen_on_dev = [stage for method in config.methods if (stage := cell.choose(method))]
    found += [Effort(stage, key, Work()) for stage in chosen_on_dev]
    return list({effort.stage.hash: effort for effort in found}.values())


def _fine_tuning(cell: Cell, model: Needs, sft: SftConfig) -> Work:
    part = cell.inputs.train_part
    assert sft.epochs != AUTO
    sequences, tokens = _evaluation_tokens(part, cell.inputs.scoring)
    right, batches = tokens * len(part.records) / sequences, math.ceil(len(part.records) / sft.batch_size)
    trained = backward(model, sft.epochs * right, sft.epochs * batches, model.parameters >= CHECKPOINTING_FROM)
    # All options of its questions are asked before and after.
    return trained + forward(model, 2 * tokens, 2 * math.ceil(sequences / sft.batch_size))


def _evaluation(cell: Cell, model: Needs, split: str, domain: str) -> Work:
    benchmark, part = cell.config.benchmark, cell.inputs.questions(split, domain)
    if benchmark.task in GENERATES:
        questions = len(part.records)
        _, shown = _evaluation_tokens(part, "letter")
        batches = math.ceil(questions / benchmark.batch_size)
        tokens = shown + questions * (EXAMPLES + benchmark.max_new_tokens)
        return forward(model, tokens, batches * (1 + benchmark.max_new_tokens))
    sequences, tokens = _evaluation_tokens(part, "letter" if benchmark.task == "letter" else "option_text")
    return forward(model, tokens, math.ceil(sequences / benchmark.batch_size))


@lru_cache(maxsize=1024)
def _discovery_tokens(part: Part) -> float:
    return sum(tokens_of(len(discovery_prompt(record))) for record in part.records)


@lru_cache(maxsize=1024)
def _evaluation_tokens(part: Part, scoring: str) -> tuple[int, float]:
    """How many sequences the questions are, and their tokens: one an option, or one a question where letters do."""
    sequences, tokens = 0, 0.0
    for record in part.records:
        context, continuations = evaluation_prompt(record, "letter" if scoring == "letter" else "option_text")
        # lm-eval asks once for all answers of one token.
        asked = continuations[:1] if scoring == "letter" else continuations
        sequences += len(asked)
        tokens += sum(tokens_of(len(context) + len(continuation)) for continuation in asked)
    return sequences, tokens
