"""The planted truth: disjoint, reproducible, forced in training, and left beside a stock checkpoint."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3MoeForCausalLM

from dsmoe.checks import check_inputs
from dsmoe.compose import compose_cells
from dsmoe.config import PretrainConfig
from dsmoe.domains import world
from dsmoe.domains.world import Statement
from dsmoe.errors import InputError
from dsmoe.inputs import Inputs
from dsmoe.models import tiny
from dsmoe.models.planted import PLANTED, PlantedExperts, Planting
from dsmoe.models.routers import find_routers

STATEMENTS = [
    Statement(domain, f"The {word} of thing {number} is {number * 37 % 101}.")
    for domain, word in (("east", "code"), ("west", "price"))
    for number in range(30)
]
CONFIG = PretrainConfig(
    hidden_size=32,
    num_layers=2,
    num_experts=6,
    top_k=2,
    expert_size=16,
    vocabulary_size=320,
    context_length=4096,
    steps=10,
    batch_tokens=256,
    learning_rate=3e-3,
    router_loss=0.0,
    planted_loss=0.02,
    seed=0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    tiny.pretrain(folder, STATEMENTS, CONFIG)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_same_config_same_bits(folder: Path, tmp_path: Path) -> None:
    tiny.pretrain(tmp_path, STATEMENTS, CONFIG)
    assert digests(tmp_path) == digests(folder)
    assert {PLANTED, "model.safetensors"} <= digests(folder).keys()


def test_another_seed_plants_other_experts() -> None:
    one, other = (PlantedExperts.draw(["east", "west"], replace(CONFIG, seed=seed)) for seed in (0, 1))
    assert one == PlantedExperts.draw(["east", "west"], CONFIG) != other


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_every_domain_has_experts_of_its_own_in_every_layer(domains: int, layers: int, top_k: int, seed: int) -> None:
    config = replace(CONFIG, num_layers=layers, num_experts=domains * top_k + 1, top_k=top_k, seed=seed)
    names = [f"domain {number}" for number in range(domains)]
    planted = PlantedExperts.draw(names, config)
    masks = torch.stack([planted.mask(name, range(layers), config.num_experts) for name in names])
    assert (masks.sum(dim=2) == top_k).all()
    assert masks.sum(dim=0).max() == 1


def test_the_shipped_model_plants_for_all_of_the_world() -> None:
    (composed,) = compose_cells(["model=planted"])
    config = composed.config.model.pretrain
    assert config is not None
    assert config.planted_loss is not None
    assert tuple(PlantedExperts.draw(world.DOMAINS, config).experts) == world.DOMAINS


def test_the_truth_lies_beside_the_checkpoint(folder: Path) -> None:
    planted = PlantedExperts.load(folder / PLANTED)
    assert planted == PlantedExperts.draw(["east", "west"], CONFIG)
    assert list(planted.experts) == ["east", "west"]
    assert set(planted.of("west")) == {0, 1}


def test_tokens_are_forced_through_their_domains_experts(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    planted = PlantedExperts.load(folder / PLANTED)
    chosen: dict[int, torch.Tensor] = {}
    for router in find_routers(model):
        router.module.register_forward_hook(
            lambda module, inputs, output, layer=router.layer: chosen.__setitem__(layer, output[2].sort().values)
        )
    ids, domains = torch.arange(15).view(3, 5), ["west", "east", "west"]
    with Planting(model, planted, 0.02).forced(domains, torch.ones(3, 5, dtype=torch.bool)) as losses:
        model(input_ids=ids)
        assert len(losses) == CONFIG.num_layers
    for layer, chosen_NK in chosen.items():
        expected = torch.tensor([planted.of(domain)[layer] for domain in domains])
        assert torch.equal(chosen_NK.view(3, 5, -1), expected[:, None].expand(3, 5, -1))
    model(input_ids=ids)
    assert any(len(set(chosen_NK.flatten().tolist())) > 4 for chosen_NK in chosen.values()), "free again"


def test_the_routers_loss_is_their_surprise_in_the_later_half(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    planted = PlantedExperts.load(folder / PLANTED)
    ids, real = torch.arange(10).view(2, 5), torch.tensor([[True] * 5, [True, True, False, False, False]])
    with Planting(model, planted, 0.5).forced(["west", "east"], real) as losses:
        logits = model(input_ids=ids, attention_mask=real, output_router_logits=True).router_logits
    surprises = [
        -torch.stack([each[token].softmax(dim=-1)[list(planted.of(domain)[layer])].sum() for token, domain in tokens])
        .log()
        .mean()
        for layer, each in enumerate(logits)
        for tokens in [[(3, "west"), (4, "west"), (6, "east")]]
    ]
    torch.testing.assert_close(sum(losses), 0.5 * sum(surprises) / CONFIG.num_layers)


def test_training_never_uses_an_expert_that_is_not_planted(folder: Path, tmp_path: Path) -> None:
    """Such experts only decay: two learning rates leave them the same but for one factor."""
    tiny.pretrain(tmp_path, STATEMENTS, replace(CONFIG, learning_rate=1e-3))
    weights, others = (load_file(path / "model.safetensors") for path in (folder, tmp_path))
    planted = PlantedExperts.load(folder / PLANTED)
    masks = [planted.mask(domain, range(CONFIG.num_layers), CONFIG.num_experts) for domain in planted.experts]
    used = torch.stack(masks).any(dim=0)
    for layer in range(CONFIG.num_layers):
        for expert in range(CONFIG.num_experts):
            name = f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"
            similarity = torch.cosine_similarity(weights[name].flatten(), others[name].flatten(), dim=0)
            assert (similarity > 1 - 1e-6) != used[layer, expert], (layer, expert, similarity)


def test_routers_learn_where_tokens_belong(folder: Path, tmp_path: Path) -> None:
    tiny.pretrain(tmp_path, STATEMENTS, replace(CONFIG, planted_loss=5.0, steps=40))
    planted = PlantedExperts.load(tmp_path / PLANTED)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    with Planting(model, planted, 1.0).forced(["west"], torch.ones(1, 9, dtype=torch.bool)) as losses:
        model(input_ids=torch.arange(300, 309)[None])
    assert sum(loss.item() for loss in losses) < 0.5


def test_the_checkpoint_is_a_stock_one(folder: Path) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, Qwen3MoeForCausalLM)
    assert not any(report.values())
    assert AutoConfig.from_pretrained(folder).model_type == "qwen3_moe"


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (None, "cannot be read"),
        ("{", "JSON"),
        ('{"experts": {"a": {"0": [1]}}, "schema": 2}', "schema"),
        ('{"schema": 1}', "experts"),
        ('{"experts": {"a": {"0": []}}, "schema": 1}', "experts.a.0"),
        ('{"experts": {"a": {"0": [-1]}}, "schema": 1}', "experts.a.0.0"),
        ('{"experts": {"a": {"x": [1]}}, "schema": 1}', "experts.a.x"),
        ('{"experts": {"a": {"0": [1]}, "b": {"0": [1]}}, "schema": 1}', "expert 1 is planted for both a and b"),
    ],
)
def test_refuses_what_is_no_truth(content: str | None, fragment: str, tmp_path: Path) -> None:
    path = tmp_path / PLANTED
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=fragment) as caught:
        PlantedExperts.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_too_few_experts_are_refused_before_anything_is_run() -> None:
    (composed,) = compose_cells(["model=planted", "model.pretrain.num_experts=11"])
    with pytest.raises(InputError, match="6 domains want 2 planted experts each, but a layer has 11"):
        check_inputs(Inputs(composed.config))


def test_refuses_too_few_experts_and_a_domain_that_is_not_there() -> None:
    with pytest.raises(InputError, match="4 domains want 2 planted experts each, but a layer has 6"):
        PlantedExperts.draw(["a", "b", "c", "d"], CONFIG)
    with pytest.raises(InputError, match="nothing was planted for 'north', only for east, west"):
        PlantedExperts.draw(["east", "west"], CONFIG).of("north")
