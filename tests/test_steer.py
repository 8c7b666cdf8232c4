"""Steering a transformers model: exact, proven, and gone afterwards."""

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module
from conftest import CONFIGS, random_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from dsmoe import InputError, Steering, steer
from dsmoe.errors import SteeringError
from dsmoe.models.routers import Router, decoder_layers, find_routers

INPUT = torch.tensor([[5, 17, 80, 33, 120, 9, 64, 71], [7, 7, 150, 42, 99, 101, 12, 3]])


SOFTMAX_FAMILIES = pytest.mark.parametrize("family", ["mixtral", "olmoe", "qwen2_moe", "qwen3_moe"])


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(INPUT).logits


def some_steering(model: PreTrainedModel, strength: float = 4.0, mode: str = "logit") -> Steering:
    first, *_, last = find_routers(model)
    return Steering({first.layer: (1, 5), last.layer: (0,)}, strength, mode)


def state(model: PreTrainedModel) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """All that a steering could leave behind: weights, buffers and every module's own attributes."""
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [dict(module.__dict__) for module in model.modules()],
    )


def assert_untouched(model: PreTrainedModel, before: tuple[dict[str, torch.Tensor], list[dict[str, Any]]]) -> None:
    weights, attributes = before
    after = model.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    for module, own in zip(model.modules(), attributes, strict=True):
        assert module.__dict__.keys() == own.keys()
        assert all(module.__dict__[name] is own[name] for name in own)


def renormalises(model: PreTrainedModel) -> bool:
    return bool(getattr(model.config, "norm_topk_prob", model.config.model_type == "mixtral"))


def routed(model: PreTrainedModel) -> dict[int, tuple[torch.Tensor, tuple[torch.Tensor, ...]]]:
    """Each router's input and output in one forward."""
    seen = {}

    def listen(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[layer] = (inputs[0].clone(), output)

        return hook

    hooks = [router.module.register_forward_hook(listen(router.layer)) for router in find_routers(model)]
    logits(model)
    for hook in hooks:
        hook.remove()
    return seen


def test_strength_moves_logits_and_zero_moves_no_bit(model: PreTrainedModel) -> None:
    base = logits(model)
    with steer(model, some_steering(model, 0.0)):
        assert torch.equal(logits(model), base)
    with steer(model, some_steering(model, 4.0)):
        assert (logits(model) - base).abs().max() > 1e-3


def test_generation_with_a_cache_agrees_with_whole_forwards(model: PreTrainedModel) -> None:
    def generate() -> Any:
        return model.generate(
            INPUT, max_new_tokens=12, do_sample=False, return_dict_in_generate=True, output_logits=True
        )

    base = generate()
    with steer(model, some_steering(model, 9.0)):
        cached = generate()
        with torch.no_grad():
            whole = model(cached.sequences, use_cache=False).logits[:, INPUT.shape[1] - 1 : -1]
    assert torch.allclose(torch.stack(cached.logits, dim=1), whole, rtol=0, atol=1e-5)
    assert (cached.logits[0] - base.logits[0]).abs().max() > 1e-3


def test_leaves_the_model_as_it_was(model: PreTrainedModel) -> None:
    before, base = state(model), logits(model)
    with steer(model, some_steering(model)):
        logits(model)
    assert_untouched(model, before)
    assert torch.equal(logits(model), base)


def test_leaves_the_model_as_it_was_after_an_exception_in_the_forward(model: PreTrainedModel) -> None:
    before = state(model)

    def fail(*_: Any) -> None:
        raise ArithmeticError("in the middle")

    with pytest.raises(ArithmeticError), steer(model, some_steering(model)):
        last = find_routers(model)[-1].module
        last.register_forward_hook(fail)
        logits(model)
    last._forward_hooks.clear()
    assert_untouched(model, before)


def test_accelerates_own_forward_is_kept(model: PreTrainedModel) -> None:
    """Accelerate keeps a forward of its own in a module's `__dict__`; it must still be called, and be put back."""
    base = logits(model)
    with steer(model, some_steering(model)):
        expected = logits(model)
    dispatch_model(model, {"": "cpu"}, force_hooks=True)
    for router in find_routers(model):
        add_hook_to_module(router.module, ModelHook())
    before = state(model)
    assert all("forward" in router.module.__dict__ for router in find_routers(model))
    with steer(model, some_steering(model)):
        assert torch.equal(logits(model), expected)
    assert_untouched(model, before)
    assert torch.equal(logits(model), base)


@SOFTMAX_FAMILIES
def test_gradients_flow_through_the_steered_model(model: PreTrainedModel) -> None:
    """A backward pass inside the context equals that through routers which the test writes out by hand."""
    steering = some_steering(model)

    def gradient() -> torch.Tensor:
        embedded = model.get_input_embeddings()(INPUT).detach().requires_grad_(True)
        return torch.autograd.grad(model(inputs_embeds=embedded).logits.logsumexp(dim=-1).sum(), embedded)[0]

    def by_hand(router: Router) -> Callable[..., tuple[torch.Tensor, ...]]:
        delta = torch.zeros(router.num_experts)
        delta[list(steering.experts.get(router.layer, ()))] = math.log(5)

        def forward(hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
            z = hidden.reshape(-1, hidden.shape[-1]) @ router.module.get_parameter("weight").T + delta
            weights, chosen = z.softmax(dim=-1).topk(router.top_k)
            if renormalises(model):
                weights = weights / weights.sum(dim=-1, keepdim=True)
            return z, weights, chosen

        return forward

    base = gradient()
    with steer(model, steering):
        steered = gradient()
    for router in find_routers(model):
        router.module.forward = by_hand(router)
    assert torch.allclose(steered, gradient(), rtol=1e-4, atol=1e-6)
    assert (steered - base).abs().max() > 1e-3


def test_entering_draws_no_random_number(model: PreTrainedModel) -> None:
    model.train()
    torch.manual_seed(3)
    with steer(model, some_steering(model)):
        drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))


COMPILED = [(family, "logit") for family in sorted(CONFIGS)] + [
    ("olmoe", "score"), ("deepseek_v3", "score"), ("gpt_oss", "gate"), ("deepseek_v3", "gate"), ("olmoe", "force"),
    ("llama4_text", "force"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "mode"), COMPILED)
def test_compiled_models_follow(model: PreTrainedModel, mode: str) -> None:
    """A graph compiled before, inside or between steerings never serves another one's logits, and counts as well."""
    base = logits(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for strength in (None, 4.0, 9.0, None):
        if strength is None:
            expected, found = base, logits(compiled)
        else:
            with steer(model, some_steering(model, strength, mode)) as watch:
                expected, change = logits(model), watch.take()
                found = logits(compiled)
                assert watch.take() == change
        assert torch.allclose(found, expected, rtol=0, atol=1e-6)
        assert strength is None or (expected - base).abs().max() > 1e-3
    torch.compiler.reset()


def test_bf16_logits_are_the_sum_in_bf16(family: str) -> None:
    model = random_model(family).to(torch.bfloat16)
    base = logits(model)
    with steer(model, some_steering(model, 0.0)):
        assert torch.equal(logits(model), base)
    steering = some_steering(model)
    with steer(model, steering):
        seen = routed(model)
    for router in find_routers(model):
        hidden, output = seen[router.layer]
        plain = router.read(router.module(hidden)).logits
        dtype = torch.bfloat16 if family == "granitemoe" else plain.dtype  # cast up after the linear map
        delta = torch.zeros(router.num_experts, dtype=dtype)
        delta[list(steering.experts.get(router.layer, ()))] = math.log(5)
        assert torch.equal(router.read(output).logits, (plain.to(dtype) + delta).to(plain.dtype))


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(sorted(CONFIGS)),
    mode=st.sampled_from(["logit", "score", "gate", "force"]),
    experts=st.lists(st.sets(st.integers(0, 7), max_size=3), min_size=3, max_size=3),
    strength=st.floats(-0.99, 1e4),
    scale_back=st.booleans(),
    fails=st.booleans(),
)
def test_any_steering_comes_and_goes(
    family: str, mode: str, experts: list[set[int]], strength: float, scale_back: bool, fails: bool
) -> None:
    """Whatever is steered, or refused, or breaks off in the middle of a forward: nothing of it is left."""
    model = random_model(family)
    routers = find_routers(model)
    chosen = {router.layer: tuple(named) for router, named in zip(routers, experts, strict=False) if named}
    assume(chosen)
    before, base = state(model), logits(model)

    def fail(*_: Any) -> None:
        raise ArithmeticError("in the middle")

    try:
        with steer(model, Steering(chosen, strength, mode, scale_back)):
            assert logits(model).isfinite().all()
            if fails:
                hook = decoder_layers(model)[-1].register_forward_hook(fail)
                try:
                    logits(model)
                finally:
                    hook.remove()
    except (ArithmeticError, InputError, SteeringError):
        pass
    assert_untouched(model, before)
    assert torch.equal(logits(model), base)


@SOFTMAX_FAMILIES
def test_a_hook_on_the_routers_output_comes_too_late(model: PreTrainedModel) -> None:
    """The trap that steering made for transformers 4 falls into: routers now choose inside, before what they return."""
    base, router = logits(model), find_routers(model)[0]
    hook = router.module.register_forward_hook(lambda _, __, output: (output[0] + 1000 * torch.eye(8)[1], *output[1:]))
    assert torch.equal(logits(model), base)
    hook.remove()
    with steer(model, Steering({router.layer: (1,)}, 1000.0)):
        assert not torch.equal(logits(model), base)


# Proof: what does not do as steering says raises.


def test_a_bypassed_router_raises(model: PreTrainedModel) -> None:
    """Some paths multiply by the router's weight themselves and never call its forward."""
    router = find_routers(model)[-1]
    block = operator.attrgetter(router.family.path.rpartition(".")[0])(decoder_layers(model)[router.layer])
    returns_a_pair = model.config.model_type in ("gpt_oss", "llama4_text")
    block.forward = lambda hidden: (hidden, None) if returns_a_pair else hidden
    before = state(model)
    with pytest.raises(SteeringError, match="not reached"), steer(model, some_steering(model)):
        pass
    assert_untouched(model, before)


def test_a_path_that_bypasses_a_router_later_raises(model: PreTrainedModel) -> None:
    """The entry's proof sees one way through the model; another way may be taken afterwards, as kernels do."""
    router = find_routers(model)[-1]
    block = operator.attrgetter(router.family.path.rpartition(".")[0])(decoder_layers(model)[router.layer])
    returns_a_pair = model.config.model_type in ("gpt_oss", "llama4_text")
    before = state(model)
    with pytest.raises(SteeringError, match="equally many tokens"), steer(model, some_steering(model)):
        block.forward = lambda hidden: (hidden, None) if returns_a_pair else hidden
        logits(model)
    del block.forward
    assert_untouched(model, before)


@SOFTMAX_FAMILIES
def test_a_router_whose_logits_are_not_the_sum_raises(model: PreTrainedModel) -> None:
    router = find_routers(model)[-1].module
    original = router.forward

    def scaled(hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        plain, weights, chosen = original(hidden)
        return plain * 1.000001, weights, chosen

    router.forward = scaled
    with pytest.raises(SteeringError, match="plus ln α"), steer(model, some_steering(model)):
        pass


@SOFTMAX_FAMILIES
@pytest.mark.parametrize("mode", ["logit", "gate"])
def test_a_router_that_chooses_otherwise_raises(model: PreTrainedModel, mode: str) -> None:
    router = find_routers(model)[-1].module
    original = router.forward

    def stubborn(hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        steered, weights, chosen = original(hidden)
        return steered, weights, torch.zeros_like(chosen) + torch.arange(chosen.shape[1])

    router.forward = stubborn
    steering = replace(some_steering(model), mode=mode)
    with pytest.raises(SteeringError, match="highest scores"), steer(model, steering):
        pass


@SOFTMAX_FAMILIES
def test_a_router_with_two_linear_maps_raises(model: PreTrainedModel) -> None:
    router = find_routers(model)[-1].module
    original = router.forward

    def doubled(hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        functional.linear(hidden, router.get_parameter("weight"))
        return original(hidden)

    router.forward = doubled
    with pytest.raises(SteeringError, match="2 times"), steer(model, some_steering(model)):
        pass


def test_an_unknown_family_is_refused_by_name() -> None:
    llama = LlamaForCausalLM(
        LlamaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    with pytest.raises(InputError, match=r"'llama'.*mixtral, olmoe"), steer(llama, Steering({0: (0,)}, 1.0)):
        pass


def test_a_steered_model_is_not_steered_again(model: PreTrainedModel) -> None:
    steering = some_steering(model)
    with steer(model, steering), pytest.raises(InputError, match="steered already"), steer(model, steering):
        pass


@pytest.mark.parametrize(
    ("steering", "says"),
    [
        (Steering({1: (0,)}, 1.0), "layer 1 has no router; those with one are \\[0, 2\\]"),
        (Steering({3: (0,)}, 1.0), "layer 3 has no router"),
        (Steering({0: (8,)}, 1.0), "experts 0 to 7, not 8"),
        (Steering({0: (0,)}, 1.0, architecture="olmoe"), "made for olmoe, but the model is qwen3_moe"),
        (Steering({0: (0,)}, 1.0, num_layers=4), "made for 4 layers, but the model has 3"),
        (Steering({0: (0,)}, 1.0, num_experts=16), "made for 16 experts a layer, but the model has 8"),
    ],
)
def test_a_steering_that_does_not_fit_is_refused(steering: Steering, says: str) -> None:
    with pytest.raises(InputError, match=says), steer(random_model("qwen3_moe"), steering):
        pass
