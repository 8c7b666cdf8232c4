"""The null of random routers: others in place of the model's own, on the same hidden states.

Shapes: D domains, N tokens, H hidden width, E experts, K chosen experts, R routers, B some of R.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from dsmoe.analysis.divergence import from_the_rest
from dsmoe.analysis.observe import Routed, Tokens
from dsmoe.analysis.usage import counted
from dsmoe.analysis.vocabulary import Vocabulary
from dsmoe.models.routers import Router

ROUTERS = 16
"""How many are held at a time."""


class RandomRouters:
    """What each domain's divergence from the rest would be if routers had learned nothing.

    Hidden states differ between domains, so that any router tells domains apart somewhat. A random one has normal rows
    of the same norms as those of the layer's own router, its bias, and chooses by the family's own rule. Tokens count
    whose id occurs in every domain, so that words of one domain alone decide nothing.
    """

    def __init__(self, vocabulary: Vocabulary, layers: int, num_experts: int, routers: int, seed: int) -> None:
        self._shared_V = vocabulary.shared
        self.count, self._seed = routers, seed
        self._domains, self._experts = len(vocabulary.domains), num_experts
        self.counts_DLE = np.zeros((self._domains, layers, num_experts), dtype=np.int64)
        self._counts_RDE: dict[int, torch.Tensor] = {}

    def add(self, tokens: Tokens, routed: Routed) -> None:
        """Count what the layer's own router and the random ones choose for a batch's shared tokens."""
        shared_N = self._shared_V[tokens.ids_N]
        kept_N = torch.from_numpy(shared_N).to(routed.hidden_NH.device)
        domain_N = tokens.domain_N[shared_N]
        self.counts_DLE[:, routed.row] += counted(domain_N, routed.chosen_NK[kept_N], self._domains, self._experts)
        hidden_NH = routed.hidden_NH[kept_N]
        if routed.row not in self._counts_RDE:
            shape = (self.count, self._domains, self._experts)
            self._counts_RDE[routed.row] = torch.zeros(shape, dtype=torch.int32, device=hidden_NH.device)
        counts_RDE = self._counts_RDE[routed.row]
        if not len(domain_N):
            return
        for start in range(0, self.count, ROUTERS):
            weight_BEH = random_rows(routed.router, min(ROUTERS, self.count - start), (self._seed, routed.row, start))
            chosen_NBK = choices(routed.router, hidden_NH, weight_BEH)
            _count(counts_RDE[start : start + ROUTERS], torch.from_numpy(domain_N).to(hidden_NH.device), chosen_NBK)

    @property
    def observed(self) -> NDArray[np.float64]:
        """Each domain's divergence from the rest under the model's own routers, on shared tokens: [D, L]."""
        return from_the_rest(self.counts_DLE)

    def divergences(self) -> NDArray[np.float64]:
        """The same under each random router: [R, D, L]."""
        rows = [self._counts_RDE[row].cpu().numpy() for row in sorted(self._counts_RDE)]
        return np.concatenate([from_the_rest(counts_RDE[:, :, None]) for counts_RDE in rows], axis=2)


def random_rows(router: Router, routers: int, seed: tuple[int, ...]) -> torch.Tensor:
    """Normal rows with the norms of the router's own ones: [B, E, H]."""
    weight_EH = router.weight
    generator = torch.Generator(weight_EH.device)
    generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
    drawn_BEH = torch.randn((routers, *weight_EH.shape), generator=generator, device=weight_EH.device)
    return drawn_BEH * (weight_EH.norm(dim=1) / drawn_BEH.norm(dim=2))[..., None]


def choices(router: Router, hidden_NH: torch.Tensor, weight_BEH: torch.Tensor) -> torch.Tensor:
    """What routers with these weights, and all else of `router`, choose: [N, B, K]."""
    routers, experts, width = weight_BEH.shape
    logits = functional.linear(hidden_NH, weight_BEH.view(-1, width)).view(-1, experts)
    if router.bias is not None:
        logits = logits + router.bias
    scores = router.choice_scores(logits)
    return scores.topk(router.top_k, dim=-1, sorted=False).indices.view(len(hidden_NH), routers, -1)


def _count(counts_BDE: torch.Tensor, domain_N: torch.Tensor, chosen_NBK: torch.Tensor) -> None:
    """Add choices to the counts, in place."""
    routers, domains, experts = counts_BDE.shape
    place_NB = torch.arange(routers, device=domain_N.device) * domains + domain_N[:, None]
    places = (place_NB[..., None] * experts + chosen_NBK).flatten()
    counts_BDE.view(-1).scatter_add_(0, places, torch.ones_like(places, dtype=counts_BDE.dtype))
