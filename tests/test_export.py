"""Exports: loaded elsewhere they answer as the model does that is steered here."""

import gc
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import quantised_gpt_oss, random_model, random_records, word_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from dsmoe import InputError, Steering, load_steered, steer
from dsmoe.cli import main
from dsmoe.errors import SteeringError
from dsmoe.models.routers import find_routers

INPUT = torch.tensor([[5, 17, 80, 33, 120, 9, 64, 71], [7, 7, 150, 42, 99, 101, 12, 3]])
EXPERTS = {0: (1, 5), 2: (0,)}
BIASES = {f"model.layers.{layer}.mlp.router.bias" for layer in EXPERTS}
STRENGTHS = [-0.95, -0.5, 0.0, 1.0, 4.0, 99.0]


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(INPUT).logits


def stock(folder: Path, **settings: Any) -> PreTrainedModel:
    """The checkpoint as transformers alone loads it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, **settings)
    return model.eval()


def steered(folder: Path, steering: Steering, **settings: Any) -> torch.Tensor:
    model = stock(folder, **settings)
    with steer(model, steering):
        return logits(model)


def checkpoint(folder: Path, family: str, **settings: Any) -> Path:
    random_model(family).to(settings.pop("dtype", torch.float32)).save_pretrained(folder, **settings)
    word_tokenizer().save_pretrained(folder)
    return folder


def export(base: Path | str, folder: Path, steering: Steering, *more: str) -> int:
    steering.save(folder.with_suffix(".json"))
    return main(
        [
            "export", "model=checkpoint", f"model.path={base}", "model.threads=1", "methods=[steering]",
            f"steering.file={folder.with_suffix('.json')}", f"paths.results={folder.parent / 'results'}",
            f"paths.export={folder}", *more,
        ]
    )  # fmt: skip


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def tensors(path: Path) -> tuple[bytes, dict[str, bytes]]:
    """A safetensors file's header and the bytes of each of its tensors."""
    content = path.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    return content[:start], {
        name: content[start + about["data_offsets"][0] : start + about["data_offsets"][1]]
        for name, about in header.items()
    }


def differing(base: Path, folder: Path) -> set[str]:
    """The tensors whose bytes differ; files, headers and all files that hold no tensors must not."""
    found = set()
    assert names(folder) - names(base) == {"steering.baked.json", "base.json"}
    for path in base.iterdir():
        other = folder / path.name
        if path.suffix != ".safetensors":
            assert path.read_bytes() == other.read_bytes()
            continue
        (header, before), (other_header, after) = tensors(path), tensors(other)
        assert header == other_header
        found |= {name for name in before if before[name] != after[name]}
    return found


# A steered checkpoint, where routers have a bias.


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_stock_transformers_loads_a_steered_checkpoint(strength: float, shard: str, tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", "gpt_oss", max_shard_size=shard)
    assert (len(list(base.glob("*.safetensors"))) > 1) == (shard == "20KB")
    steering = Steering(EXPERTS, strength)
    assert export(base, tmp_path / "export", steering) == 0
    found, expected = logits(stock(tmp_path / "export")), steered(base, steering)
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)
    assert strength == 0 or (expected - logits(stock(base))).abs().max() > 1e-3
    assert differing(base, tmp_path / "export") == (BIASES if strength else set())
    assert Steering.load(tmp_path / "export" / "steering.baked.json") == steering


def test_only_the_steered_experts_biases_move_and_by_ln_alpha(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", "gpt_oss")
    assert export(base, tmp_path / "export", Steering(EXPERTS, 4.0)) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "export"))
    for layer, experts in EXPERTS.items():
        name = f"model.layers.{layer}.mlp.router.bias"
        expected = before[name].double()
        for expert in experts:
            expected[expert] += 1.6094379124341003  # ln 5
        assert torch.equal(after[name], expected.float())


def test_a_steered_checkpoint_is_not_steered_again(tmp_path: Path) -> None:
    base, steering = checkpoint(tmp_path / "base", "gpt_oss"), Steering(EXPERTS, 4.0)
    assert export(base, tmp_path / "export", steering) == 0
    model, _ = load_steered(tmp_path / "export", threads=1)
    once = steered(base, steering)
    assert torch.allclose(logits(model), once, rtol=0, atol=1e-5)
    assert (steered(base, Steering(EXPERTS, 24.0)) - once).abs().max() > 1e-3
    shutil.rmtree(base)
    model, _ = load_steered(tmp_path / "export", threads=1)
    assert torch.allclose(logits(model), once, rtol=0, atol=1e-5)


def test_bf16_biases_are_rounded_and_no_more(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", "gpt_oss", dtype=torch.bfloat16)
    assert export(base, tmp_path / "export", Steering(EXPERTS, 4.0), "model.dtype=bfloat16") == 0
    assert differing(base, tmp_path / "export") == BIASES
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "export"))
    for name in BIASES:
        experts = list(EXPERTS[int(name.split(".")[2])])
        exact = before[name].double()
        exact[experts] += torch.tensor(5.0).double().log()
        assert after[name].dtype == torch.bfloat16
        assert ((after[name].double() - exact).abs() <= exact.abs() * 2**-8).all()
    model, _ = load_steered(tmp_path / "export", threads=1)
    assert model.dtype == torch.bfloat16


def test_quantised_experts_stay_as_they_are(tmp_path: Path) -> None:
    base, steering = quantised_gpt_oss(tmp_path / "base"), Steering(EXPERTS, 4.0)
    assert export(base, tmp_path / "export", steering, "model.dtype=bfloat16") == 0
    assert differing(base, tmp_path / "export") == BIASES
    found = logits(stock(tmp_path / "export", dtype=torch.float32))
    expected = steered(base, steering, dtype=torch.float32)
    assert (found - expected).abs().max() < (found - logits(stock(base, dtype=torch.float32))).abs().max() / 20


def test_weights_that_would_stay_unsteered_are_left_out(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", "gpt_oss")
    torch.save({}, base / "pytorch_model.bin")
    (base / "original").mkdir()
    (base / "original" / "model.safetensors").write_bytes(b"")
    (base / ".hidden").write_text("")
    assert export(base, tmp_path / "export", Steering(EXPERTS, 4.0)) == 0
    left_out = {"pytorch_model.bin", "original", ".hidden"}
    assert names(tmp_path / "export") == names(base) - left_out | {"steering.baked.json", "base.json"}


# A steering and its base, elsewhere.


def test_load_steered_answers_as_steer_does(family: str, tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", family)
    first, *_, last = find_routers(stock(base))
    steering = Steering({first.layer: (1, 5), last.layer: (0,)}, 4.0, mode="gate")
    assert export(base, tmp_path / "export", steering) == 0
    assert names(tmp_path / "export") == {"steering.json", "base.json"}
    model, tokenizer = load_steered(tmp_path / "export", threads=1)
    gc.collect()
    assert torch.equal(logits(model), steered(base, steering))
    assert tokenizer("the word1").input_ids == word_tokenizer()("the word1").input_ids


def test_a_force_that_is_undone_later_ends_the_forward(tmp_path: Path) -> None:
    """By some token that the proof on loading has not seen; nobody leaves a context, where `steer` would say so."""
    base, steering = tmp_path / "base", Steering({1: (4,)}, 4.0, mode="force")
    random_model("glm4_moe", seed=1).save_pretrained(base)
    word_tokenizer().save_pretrained(base)
    ids = torch.randint(3, 190, (8, 60), generator=torch.Generator().manual_seed(0))
    with pytest.raises(SteeringError, match="for 1 of 480 tokens"), steer(model := stock(base), steering):
        model(input_ids=ids)
    assert export(base, tmp_path / "export", steering) == 0
    model, _ = load_steered(tmp_path / "export", threads=1)
    for _ in range(2):
        with pytest.raises(SteeringError, match="for 1 of 480 tokens"):
            model(input_ids=ids)
    model(input_ids=ids[:, :4])


def test_it_takes_settings_and_shares_the_model_with_nobody(tmp_path: Path) -> None:
    base, steering = checkpoint(tmp_path / "base", "olmoe"), Steering(EXPERTS, 4.0)
    assert export(base, tmp_path / "export", steering) == 0
    one, _ = load_steered(tmp_path / "export", threads=1)
    same, _ = load_steered(tmp_path / "export", threads=1)
    other, _ = load_steered(str(tmp_path / "export"), dtype="bfloat16", experts_implementation="eager")
    assert len({id(model) for model in (one, same, other)}) == 3
    assert (one.dtype, other.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(logits(one), steered(base, steering))
    with pytest.raises(InputError, match="steered already"), steer(one, steering):
        pass


def test_what_is_exported_is_what_compare_steers(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", "qwen3_moe")
    with (tmp_path / "data.jsonl").open("w") as file:
        for record in random_records(40, "alpha"):
            row = {"domain": "alpha", "question": record.question, "options": record.options, "answer": record.answer}
            file.write(json.dumps(row) + "\n")
    common = [
        "model=checkpoint", f"model.path={base}", "model.threads=1", "dataset=records", "domain=alpha",
        f"dataset.path={tmp_path / 'data.jsonl'}", "benchmark.limit=2", "steering.num_experts=3", "steering.strength=2",
        f"paths.results={tmp_path / 'results'}",
    ]  # fmt: skip
    for method, more in (("random", ["methods=[random]"]), ("dsmoe", [])):  # dsmoe is the method that is not named
        assert main(["export", *common, *more, f"paths.export={tmp_path / method}"]) == 0
    assert main(["compare", *common, "methods=[dsmoe,random]"]) == 0
    for method in ("dsmoe", "random"):
        (compared,) = tmp_path.glob(f"results/default/*/steering-{method}.json")
        assert (tmp_path / method / "steering.json").read_text() == compared.read_text()
    before = steered(base, Steering.load(tmp_path / "dsmoe" / "steering.json"))
    assert torch.equal(logits(load_steered(tmp_path / "dsmoe", threads=1)[0]), before)


HUB = """
import json, sys, torch
from pathlib import Path
import dsmoe
from dsmoe.cli import main

folder, commits = Path(sys.argv[1]), json.loads(sys.argv[2])
for family, commit in commits.items():
    dsmoe.Steering({0: (1, 5), 2: (0,)}, 4.0).save(folder / "steering.json")
    assert main(["export", "model=checkpoint", f"model.path=someone/{family}", "methods=[steering]", "model.threads=1",
        f"steering.file={folder}/steering.json", f"paths.results={folder}/results", f"paths.export={folder}/{family}"])\
        == 0
    base = json.loads((folder / family / "base.json").read_text())
    assert (base["path"], base["commit"], base["content"]) == (f"someone/{family}", commit, None)
    model, _ = dsmoe.load_steered(folder / family, threads=1)
    torch.save(model(torch.tensor(json.loads(sys.argv[3]))).logits.detach(), folder / f"{family}.pt")
"""


def test_a_model_of_the_hub_is_pinned_by_its_commit(tmp_path: Path) -> None:
    """Through the Hub's own cache, without a network."""
    commits = {"gpt_oss": "a" * 40, "mixtral": "b" * 40}
    for family, commit in commits.items():
        hub = tmp_path / "hub" / f"models--someone--{family}"
        checkpoint(hub / "snapshots" / commit, family)
        (hub / "refs").mkdir()
        (hub / "refs" / "main").write_text(commit)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", HUB, str(tmp_path), json.dumps(commits), json.dumps(INPUT.tolist())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "gpt_oss" / "model.safetensors").exists()
    assert names(tmp_path / "mixtral") == {"steering.json", "base.json"}
    for family, commit in commits.items():
        snapshot = tmp_path / "hub" / f"models--someone--{family}" / "snapshots" / commit
        expected = steered(snapshot, Steering(EXPERTS, 4.0))
        assert torch.allclose(torch.load(tmp_path / f"{family}.pt"), expected, rtol=0, atol=1e-5)


# What is refused.


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and an export of it."""
    folder = tmp_path_factory.mktemp("good")
    assert export(checkpoint(folder / "base", "olmoe"), folder / "export", Steering(EXPERTS, 4.0)) == 0
    return folder


def refusal(folder: Path, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_steered(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(good: Path, folder: Path, **fields: object) -> Path:
    """A copy of the good export with other fields in its base.json; `...` removes one."""
    shutil.copytree(good / "export", folder)
    content = {**json.loads((folder / "base.json").read_text()), **fields}
    (folder / "base.json").write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return folder


def test_what_is_no_export_is_refused(good: Path, tmp_path: Path) -> None:
    assert "is no export" in refusal(tmp_path / "nowhere")
    assert "is no export" in refusal(good / "base")
    assert "is no export" in refusal(good / "export" / "base.json")
    shutil.copytree(good / "export", tmp_path / "bare")
    (tmp_path / "bare" / "base.json").unlink()
    assert "is no export" in refusal(tmp_path / "bare")
    assert "of schema 1" in refusal(changed(good, tmp_path / "schema", schema=2))
    assert "base.json: dtype: " in refusal(changed(good, tmp_path / "dtype", dtype="float8"))
    assert "base.json: content: " in refusal(changed(good, tmp_path / "field", content=...))
    assert "exactly one of them" in refusal(changed(good, tmp_path / "both", commit="main"))
    shutil.copytree(good / "export", tmp_path / "text")
    (tmp_path / "text" / "base.json").write_text("{")
    assert "base.json: is not JSON" in refusal(tmp_path / "text")
    shutil.copytree(good / "export", tmp_path / "steering")
    (tmp_path / "steering" / "steering.json").write_text("{}")
    assert "steering.json: is not a steering file" in refusal(tmp_path / "steering")


def test_a_base_that_is_gone_or_another_one_is_refused(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", "olmoe")
    assert export(base, tmp_path / "export", Steering(EXPERTS, 4.0)) == 0
    random_model("olmoe", seed=1).save_pretrained(base)
    assert f"its base {base} has changed" in refusal(tmp_path / "export")
    shutil.rmtree(base)
    assert f"its base {base} is gone" in refusal(tmp_path / "export")


def test_a_base_of_the_hub_that_cannot_be_had_is_refused(good: Path, tmp_path: Path) -> None:
    folder = changed(good, tmp_path / "hub", path="nobody/nothing", commit="main", content=None)
    assert "nobody/nothing cannot be loaded" in refusal(folder)


def test_an_export_cannot_allow_code_of_its_own(good: Path, tmp_path: Path) -> None:
    folder = changed(good, tmp_path / "trusting", trust_remote_code=True)
    assert "trust_remote_code=True" in refusal(folder)
    load_steered(folder, trust_remote_code=True, threads=1)


def test_settings_are_checked(good: Path) -> None:
    assert "dtpye: is not one of dtype, device" in refusal(good / "export", dtpye="float32")
    assert "dtype: 'torch.int8' is not allowed" in refusal(good / "export", dtype=torch.int8)
    assert "threads: 0 is not allowed" in refusal(good / "export", threads=0)


@pytest.mark.parametrize("at", ["full", "file", "file/below"])
def test_nothing_is_written_over(at: str, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    arguments = [
        "export", "model=checkpoint", f"model.path={good / 'base'}", "methods=[steering]",
        f"steering.file={good / 'export' / 'steering.json'}", f"paths.export={tmp_path / at}",
    ]  # fmt: skip
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"dsmoe: paths.export: {tmp_path / at} ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled(good: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert export(good / "base", tmp_path / "a" / "b", Steering(EXPERTS, 4.0)) == 0
    assert names(tmp_path / "a" / "b") == {"steering.json", "base.json"}
    assert names(tmp_path / "a") == {"b", "b.json"}
