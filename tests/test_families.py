"""Steered models of every family against routers written out by hand, token by token, in float64."""

import math

import pytest
import torch
from conftest import CONFIGS, random_model
from family_table import documented, measured
from router_oracle import CASES, RULES, outputs, robust_choices

from dsmoe import InputError, Steering, steer
from dsmoe.models.routers import Router, find_routers, known_families
from dsmoe.results import RoutingChange


def test_every_family_is_held_to_its_rule() -> None:
    assert set(RULES) == set(known_families()) == {name.removesuffix("_greedy") for name in CONFIGS}


@pytest.mark.parametrize("mode", sorted(CASES))
def test_steered_logits_equal_those_of_routers_written_by_hand(family: str, mode: str) -> None:
    """Prefill, both paddings, generation with a cache, and the counted choices; the page says just what happened."""
    assert documented()[family, mode] == measured(family, mode)


def test_the_page_knows_every_family() -> None:
    assert {family for family, _ in documented()} == set(CONFIGS)


@pytest.mark.parametrize("mode", ["logit", "score", "gate", "force"])
def test_strength_0_changes_no_bit(family: str, mode: str) -> None:
    if documented()[family, mode] == "refused":
        return
    model = random_model(family)
    first, *_, last = find_routers(model)
    base = outputs(model, 0)
    for scale_back in (True, False):
        with steer(model, Steering({first.layer: (1, 5), last.layer: (0, 3)}, 0.0, mode, scale_back)):
            assert all(map(torch.equal, outputs(model, 0), base))


def test_too_many_forced_experts_are_refused() -> None:
    model = random_model("olmoe")
    for strength, experts in ((1.0, (0, 1, 2)), (-0.5, tuple(range(7)))):
        with pytest.raises(InputError, match="at most"), steer(model, Steering({0: experts}, strength, "force")):
            pass


def test_a_force_survives_bf16() -> None:
    model = random_model("mixtral").to(torch.bfloat16)
    seen: list[torch.Tensor] = []
    router = find_routers(model)[0].module
    with steer(model, Steering({0: (6, 2)}, 1.0, "force")):
        hook = router.register_forward_hook(lambda _, __, output: seen.append(output[2]))
        outputs(model, 0)
        hook.remove()
    assert all((chosen.sort(dim=-1).values == torch.tensor([2, 6])).all() for chosen in seen)


def test_bf16_chooses_as_the_oracle_wherever_bf16_can_tell(family: str) -> None:
    model = random_model(family).to(torch.bfloat16)
    first, *_, last = find_routers(model)
    steering = Steering({first.layer: (1, 5), last.layer: (0, 3, 6)}, 4.0)
    seen: list[tuple[Router, torch.Tensor, torch.Tensor]] = []
    with steer(model, steering):
        hooks = [
            router.module.register_forward_hook(
                lambda _, inputs, output, router=router: seen.append((router, inputs[0], router.read(output).chosen))
            )
            for router in (first, last)
        ]
        outputs(model, 0)
        for hook in hooks:
            hook.remove()
    told = compared = 0
    for router, hidden, chosen in seen:
        z = hidden.reshape(-1, hidden.shape[-1]).double() @ router.module.get_parameter("weight").double().T
        if isinstance(bias := getattr(router.module, "bias", None), torch.Tensor):
            z = z + bias.double()
        z[:, list(steering.experts[router.layer])] += math.log(5)
        for expected, found in zip(robust_choices(model, router, z), chosen.tolist(), strict=True):
            compared += 1
            told += expected is not None
            assert expected in (None, set(found))
    assert told > 0.8 * compared


def test_changed_choices_are_counted_call_by_call() -> None:
    model = random_model("deepseek_v3")
    last = find_routers(model)[-1].layer
    with steer(model, Steering({last: (0, 3)}, 200.0)) as watch:
        assert watch.take() == RoutingChange(0, 0)
        outputs(model, 0)
        once = watch.take()
        outputs(model, 0)
        assert watch.take() == once
        assert watch.take() == RoutingChange(0, 0)
    assert 0 < once.changed < once.choices
