"""A planted truth, the positive control: experts of which it is known that they belong to a domain.

While the embedded model `planted` is trained, every token goes through the experts that were planted for its domain,
whatever the routers say, and the routers learn by a small loss to say it too. They learn it in part only: so the truth
can be found, and steering toward it must help. An instrument that finds nothing here is at fault.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, MinLen
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.nn import functional

from dsmoe.config import PretrainConfig
from dsmoe.errors import InputError
from dsmoe.models.forwards import Forward, replaced
from dsmoe.models.routers import find_routers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLANTED = "planted.json"
UNTAUGHT = 0.5
"""The share of a sequence, from its start, that teaches routers nothing: first words are those of any domain."""

Index = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class PlantedExperts:
    """The experts planted for each domain, as {domain: {layer: experts}}; in a layer no two domains share one."""

    experts: Mapping[str, Mapping[Index, Annotated[tuple[Index, ...], MinLen(1)]]]
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        owners: dict[tuple[int, int], str] = {}
        for domain, layers in self.experts.items():
            for layer, experts in layers.items():
                for expert in experts:
                    if (other := owners.setdefault((layer, expert), domain)) != domain:
                        raise ValueError(f"layer {layer}: expert {expert} is planted for both {other} and {domain}")

    @classmethod
    def draw(cls, domains: Sequence[str], config: PretrainConfig) -> "PlantedExperts":
        """As many experts as a token takes, in every layer, for every domain, drawn with the config's seed.

        Raises InputError where a layer has too few experts for that.
        """
        wanted = len(domains) * config.top_k
        if wanted > config.num_experts:
            raise InputError(
                f"model.pretrain: {len(domains)} domains want {config.top_k} planted experts each, but a layer has "
                f"{config.num_experts}"
            )
        generator = np.random.default_rng(config.seed)
        drawn = [
            generator.choice(config.num_experts, (len(domains), config.top_k), replace=False)
            for _ in range(config.num_layers)
        ]
        return cls(
            {
                domain: {layer: tuple(sorted(experts[row].tolist())) for layer, experts in enumerate(drawn)}
                for row, domain in enumerate(domains)
            }
        )

    def mask(self, domain: str, layers: Sequence[int], num_experts: int) -> torch.Tensor:
        """Which experts [layers, experts] are those of the domain: true where one is. `layers` are the rows' layers.

        Raises InputError for a domain that nothing was planted for.
        """
        planted = torch.zeros(len(layers), num_experts, dtype=torch.bool)
        for row, layer in enumerate(layers):
            planted[row, list(self.of(domain).get(layer, ()))] = True
        return planted

    def of(self, domain: str) -> Mapping[int, tuple[int, ...]]:
        """The domain's experts, by layer. Raises InputError for a domain that nothing was planted for."""
        if domain not in self.experts:
            raise InputError(f"domain: nothing was planted for {domain!r}, only for {', '.join(self.experts)}")
        return self.experts[domain]

    def save(self, path: str | Path) -> None:
        """Write the truth as JSON."""
        Path(path).write_bytes(FILE.dump_json(self, indent=2) + b"\n")

    @classmethod
    def load(cls, path: str | Path) -> "PlantedExperts":
        """Read what `save` wrote. Raises InputError, naming the file, for anything else."""
        try:
            return FILE.validate_json(Path(path).read_bytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise InputError(f"{path}: is not a file of planted experts: {where}: {fault['msg']}") from error


FILE = TypeAdapter(PlantedExperts)


class Planting:
    """A model in training whose tokens go through their domains' planted experts."""

    def __init__(self, model: "PreTrainedModel", planted: PlantedExperts, weight: float) -> None:
        self._weight = weight
        self._routers = find_routers(model)
        self._row = {domain: row for row, domain in enumerate(planted.experts)}
        self._experts_LDK = torch.tensor(
            [[planted.experts[domain][router.layer] for domain in planted.experts] for router in self._routers]
        )

    @contextmanager
    def forced(self, domains: Sequence[str], real_BT: torch.Tensor) -> Iterator[list[torch.Tensor]]:
        """Inside the context the tokens of sequences of these domains are forced through their planted experts.

        Each forward adds the routers' weighted losses to the list, one a layer. Their sum is the weighted mean surprise
        in nats, over layers and the real tokens of each sequence's later half, that a token goes where it is sent.
        """
        rows_N = torch.tensor([self._row[domain] for domain in domains]).repeat_interleave(real_BT.shape[1])
        losses: list[torch.Tensor] = []
        late_BT = real_BT & (torch.arange(real_BT.shape[1]) >= UNTAUGHT * real_BT.sum(dim=1, keepdim=True))
        weight_N = late_BT.flatten() * (self._weight / len(self._routers) / late_BT.sum())
        forwards = {
            router.module: _forced(router.module, experts_DK[rows_N], weight_N, losses)
            for router, experts_DK in zip(self._routers, self._experts_LDK, strict=True)
        }
        with replaced(forwards):
            yield losses


def _forced(module: nn.Module, experts_NK: torch.Tensor, weight_N: torch.Tensor, losses: list[torch.Tensor]) -> Forward:
    """The router's forward with the choice made for it; what it would have said becomes a loss."""

    def forward(hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = functional.linear(hidden_states.flatten(0, -2), module.get_parameter("weight"))
        forced_NK = logits.float().log_softmax(dim=-1).gather(1, experts_NK)
        losses.append(-(forced_NK.logsumexp(dim=-1) * weight_N).sum())
        return logits, forced_NK.softmax(dim=-1).to(logits), experts_NK

    return forward
