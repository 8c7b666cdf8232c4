"""Where specialisation comes from: the embedded model trained with and without load balancing, on two kinds of batches.

"The Myth of Expert Specialization in MoEs" (arXiv 2604.09780) expects that the loss that balances experts' load
suppresses the direction that all hidden states share, and that specialisation collapses where batches are less diverse.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dsmoe.analysis.divergence import from_the_rest
from dsmoe.analysis.load import Direction, Load
from dsmoe.analysis.observe import observe
from dsmoe.analysis.passages import Passage, domains_of
from dsmoe.analysis.usage import Usage
from dsmoe.config import Batches, PretrainConfig
from dsmoe.errors import InputError
from dsmoe.models.load import LoadedModel
from dsmoe.models.routers import find_routers

ORIGIN = pa.schema(
    {
        "router_loss": pa.float64(),
        "batches": pa.string(),
        "layer": pa.int64(),
        "jsd": pa.float64(),
        "gini": pa.float64(),
        "mean_energy": pa.float64(),
    }
)


@dataclass(frozen=True, slots=True)
class Training:
    """One way to train the embedded model."""

    router_loss: float
    batches: Batches


def trainings(config: PretrainConfig | None) -> list[Training]:
    """The four ways. Raises InputError where the model is not trained here, or so that they would not differ."""
    if config is None or config.planted_loss is not None or config.router_loss == 0:
        raise InputError(
            "analysis.origin: wants an embedded model that is trained with a router_loss above 0 and without planted "
            "experts, such as model=tiny"
        )
    kinds: tuple[Batches, ...] = ("mixed", "single")
    return [Training(loss, kind) for loss in (config.router_loss, 0.0) for kind in kinds]


def origin(
    trained: Iterable[tuple[Training, LoadedModel]],
    passages: Sequence[Passage],
    batch_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pa.Table:
    """`origin.parquet`: a row a training and layer, of models that read the same passages.

    `jsd` is the mean over domains of the divergence in bits of a domain's choices from all others'; `gini` that of the
    load; `mean_energy` the share of the hidden states' energy that lies in their mean, ‖mean h‖² / mean ‖h‖².
    """
    rows: list[dict[str, Any]] = []
    for way, loaded in trained:
        routers = find_routers(loaded.model)
        layers = [router.layer for router in routers]
        usage = Usage(domains_of(passages), layers, routers[0].num_experts)
        direction = Direction(layers)
        observe(loaded.model, loaded.tokenizer, passages, [usage, direction], batch_tokens, progress)
        jsd_L = from_the_rest(usage.counts_DLE).mean(axis=0)
        gini_L, shared = Load.of(usage).gini[-1], direction.by_layer()
        rows += [
            {
                "router_loss": way.router_loss,
                "batches": way.batches,
                "layer": layer,
                "jsd": float(jsd_L[row]),
                "gini": float(gini_L[row]),
                "mean_energy": shared[row]["mean_energy"],
            }
            for row, layer in enumerate(layers)
        ]
    return pa.Table.from_pylist(rows, ORIGIN)
