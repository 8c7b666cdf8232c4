"""What an analysis asks of a session to say why routing is as it is: continuations, and other trainings."""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from dsmoe.analysis.origin import Training, origin, trainings
from dsmoe.analysis.passages import Passage
from dsmoe.analysis.rollout import rollout
from dsmoe.config import Config
from dsmoe.models.load import LoadedModel, fresh_model
from dsmoe.session import Session


def check_origin(config: Config) -> None:
    """Raise InputError where other trainings are wanted of a model that is not trained here."""
    if config.analysis.origin:
        trainings(config.model.pretrain)


def rollouts(session: Session, passages: Sequence[Passage]) -> dict[str, pa.Table]:
    """`rollout`, prompts against what the model writes after them; nothing, and said so, where none are wanted."""
    config, wanted, loaded = session.config, session.config.analysis, session.loaded
    if not wanted.rollouts:
        session.reporter.say("analyze: nothing is generated, since analysis.rollouts is 0")
        return {}
    with session.reporter.work("analyze: rollouts") as advance:
        table = rollout(
            loaded.model,
            loaded.tokenizer,
            passages,
            wanted.rollouts,
            wanted.new_tokens,
            wanted.permutations,
            config.seed,
            advance,
        )
    return {"rollout": table}


def origins(session: Session, passages: Sequence[Passage]) -> dict[str, pa.Table]:
    """`origin`, the embedded model trained in four ways, each a stage of its own; nothing where it is not wanted."""
    config, pretrain = session.config, session.config.model.pretrain
    if not config.analysis.origin:
        return {}
    ways = trainings(pretrain)
    assert pretrain is not None
    session.reporter.say(f"analyze: wants the embedded model trained in {len(ways)} ways, each as long as the first")

    def loaded(way: Training) -> LoadedModel:
        path = session.pretrained_as(replace(pretrain, router_loss=way.router_loss), way.batches)
        return fresh_model(str(path), config.model)

    trained = ((way, loaded(way)) for way in ways)
    return {"origin": origin(trained, passages, config.discovery.batch_tokens)}
