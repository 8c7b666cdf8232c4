"""Loading checkpoints: quantised weights become plain ones, what would be trusted blindly is refused."""

from pathlib import Path

import pytest
import torch
from conftest import quantised_gpt_oss, random_model, random_records, word_tokenizer

from dsmoe import InputError, Steering, discover, steer
from dsmoe.compose import compose_cells
from dsmoe.models.load import LoadedModel, fresh_model
from dsmoe.models.routers import find_routers


def load(folder: Path, *overrides: str) -> LoadedModel:
    (composed,) = compose_cells(["model=checkpoint", f"model.path={folder}", "model.threads=1", *overrides])
    return fresh_model(str(folder), composed.config.model)


def by_hand(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """MXFP4 (OCP Microscaling 1.0): pairs of E2M1 numbers, low half first, 32 of them to a scale 2^(s − 127)."""
    numbers = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    pairs = torch.stack((numbers[(blocks & 15).long()], numbers[(blocks >> 4).long()]), dim=-1)
    return pairs.flatten(-2) * torch.exp2(scales.float() - 127)[..., None]


def test_mxfp4_is_loaded_as_plain_weights_that_can_be_discovered_and_steered(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = quantised_gpt_oss(tmp_path / "model")
    loaded = load(folder, "model.dtype=bfloat16")
    stored = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj"
    expected = by_hand(stored[f"{name}_blocks"], stored[f"{name}_scales"]).flatten(-2).transpose(1, 2)
    assert torch.equal(loaded.model.get_parameter(name).float(), expected)
    profile = discover(loaded.model, loaded.tokenizer, random_records(8))
    ids = torch.arange(3, 20)[None]
    with torch.no_grad(), steer(loaded.model, Steering.from_profile(profile, 3, 4.0)) as watch:
        loaded.model(ids)
        assert watch.take().changed > 0


def test_the_implementations_are_those_of_the_config(tmp_path: Path) -> None:
    random_model("olmoe").save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    for attention, experts in (("eager", "eager"), ("sdpa", "grouped_mm")):
        model = load(
            tmp_path, f"model.attn_implementation={attention}", f"model.experts_implementation={experts}"
        ).model
        assert (model.config._attn_implementation, model.config._experts_implementation) == (attention, experts)
    with pytest.raises(InputError, match=r"cannot be loaded: .*fastest"):
        load(tmp_path, "model.attn_implementation=fastest")


def test_a_quantised_router_is_refused() -> None:
    model = random_model("olmoe")
    router = find_routers(model)[1].module
    weight = router.get_parameter("weight").detach()
    router.weight = torch.nn.Parameter(weight.to(torch.int8), requires_grad=False)
    with pytest.raises(InputError, match="router of layer 1 is quantised"):
        find_routers(model)


def test_discovery_refuses_weights_that_stay_quantised() -> None:
    class Quantiser:
        class quantization_config:  # noqa: N801
            quant_method = "awq"

    model = random_model("olmoe")
    model.hf_quantizer = Quantiser()
    with pytest.raises(InputError, match=r"quantised \(awq\)"):
        discover(model, word_tokenizer(), random_records(4))
