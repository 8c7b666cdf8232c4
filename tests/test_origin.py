"""Where specialisation comes from: batches of single domains, four trainings, each once, and what they leave behind."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_model, word_tokenizer
from pyarrow import parquet
from scipy.spatial.distance import jensenshannon
from test_tiny import CONFIG, digests
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3MoeForCausalLM

from dsmoe.analysis.observe import Routed, Tokens, observe
from dsmoe.analysis.origin import Training, origin
from dsmoe.analysis.passages import Passage
from dsmoe.cell import pretraining
from dsmoe.cli import main
from dsmoe.config import Batches
from dsmoe.domains.world import Statement
from dsmoe.models import tiny
from dsmoe.models.load import LoadedModel

STATEMENTS = [
    Statement(domain, f"The {word} of thing {number} is {number * 37 % 101}{' or so' * (number % 4)}.")
    for domain, word in (("east", "code"), ("west", "price"), ("north", "weight"))
    for number in range(20)
]
BRIEF = [
    "model.pretrain.steps=4",
    "model.pretrain.num_layers=2",
    "model.pretrain.num_experts=4",
    "model.pretrain.expert_size=16",
    "model.pretrain.hidden_size=32",
    "model.pretrain.vocabulary_size=400",
    "analysis.limit=6",
    "analysis.permutations=9",
    "analysis.random_routers=2",
    "analysis.rollouts=1",
    "analysis.new_tokens=2",
    "analysis.sampled_tokens=24",
    "analysis.causal=false",
]


def read_in_training(folder: Path, batches: Batches, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The statements of every batch that a model is trained on."""
    forward, seen = Qwen3MoeForCausalLM.forward, []

    def watched(self: Any, **inputs: Any) -> Any:
        seen.append(inputs["input_ids"])
        return forward(self, **inputs)

    monkeypatch.setattr(Qwen3MoeForCausalLM, "forward", watched)
    tiny.pretrain(folder, STATEMENTS, CONFIG, batches=batches)
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    assert all(ids.numel() <= CONFIG.batch_tokens for ids in seen)
    return [tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in seen]


def test_single_batches_are_of_one_domain_each_and_leave_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain_of = {statement.text: statement.domain for statement in STATEMENTS}
    batches = read_in_training(tmp_path, "single", monkeypatch)
    assert all(len({domain_of[text] for text in batch}) == 1 for batch in batches)
    # The first epoch, whose batches are counted off, reads every statement once.
    epoch, left = Counter[str](), iter(batches)
    while len(epoch) < len(STATEMENTS):
        epoch.update(next(left))
    assert set(epoch.values()) == {1}
    assert len({domain_of[batch[0]] for batch in batches}) == 3


def test_mixed_batches_mix_and_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domain_of = {statement.text: statement.domain for statement in STATEMENTS}
    batches = read_in_training(tmp_path / "mixed", "mixed", monkeypatch)
    assert all(len({domain_of[text] for text in batch}) > 1 for batch in batches)
    tiny.pretrain(tmp_path / "default", STATEMENTS, CONFIG)
    assert digests(tmp_path / "default") == digests(tmp_path / "mixed")


def test_only_single_batches_make_another_stage() -> None:
    mixed, single = pretraining(CONFIG), pretraining(CONFIG, "single")
    assert pretraining(CONFIG, "mixed").hash == mixed.hash != single.hash
    assert "batches" not in mixed.config
    assert single.config["batches"] == "single"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("origin")
    assert main(["analyze", "analysis.origin=true", *BRIEF, f"paths.results={results}"]) == 0
    return results


def folder_of(results: Path) -> Path:
    (folder,) = (results / "stages" / "analyze").iterdir()
    return folder


def test_trains_four_models_once(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(list((results / "stages" / "pretrain").glob("*/status.json"))) == 4
    rows = parquet.read_table(folder_of(results) / "origin.parquet").to_pylist()
    assert [(row["router_loss"], row["batches"], row["layer"]) for row in rows] == [
        (loss, batches, layer) for loss in (0.02, 0.0) for batches in ("mixed", "single") for layer in (0, 1)
    ]
    assert len({row["jsd"] for row in rows}) == 8
    (folder_of(results) / "status.json").unlink()
    folder_of(results).rename(results / "away")
    assert main(["analyze", "analysis.origin=true", *BRIEF, f"paths.results={results}"]) == 0
    assert "pretrain: the embedded model" not in capsys.readouterr().err
    again = parquet.read_table(folder_of(results) / "origin.parquet").to_pylist()
    assert again == rows


def test_divergence_and_load_are_those_of_the_usage(results: Path) -> None:
    folder = folder_of(results)
    usage = parquet.read_table(folder / "usage.parquet").to_pandas()
    own = parquet.read_table(folder / "origin.parquet").to_pylist()[:2]
    for row in own:
        counts = usage[usage.layer == row["layer"]].pivot_table(index="domain", columns="expert", values="tokens")
        apart = [jensenshannon(counts.loc[domain], counts.drop(domain).sum(), base=2) ** 2 for domain in counts.index]
        assert row["jsd"] == pytest.approx(np.mean(apart))
        load = counts.sum().to_numpy(dtype=np.float64)
        assert row["gini"] == pytest.approx(np.abs(load[:, None] - load).sum() / (2 * len(load) * load.sum()))


def test_mean_energy_is_that_of_all_hidden_states(tokenizer: Any) -> None:
    model = random_model("qwen3_moe")
    hidden: list[list[torch.Tensor]] = [[], []]

    class Hidden:
        def add(self, tokens: Tokens, routed: Routed) -> None:
            hidden[routed.row].append(routed.hidden_NH.double())

    passages = [Passage(str(n), domain, str(n), f"word{n} of the {domain}") for n in range(9) for domain in ("a", "b")]
    observe(model, tokenizer, passages, [Hidden()], 16)
    way = Training(0.02, "mixed")
    rows = origin([(way, LoadedModel(model, tokenizer))], passages, 64).to_pylist()
    for row, states in zip(rows, hidden, strict=True):
        of_all = torch.cat(states)
        expected = of_all.mean(dim=0).norm() ** 2 / of_all.norm(dim=1).square().mean()
        assert row["mean_energy"] == pytest.approx(float(expected))


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=planted"],
        ["model.pretrain.router_loss=0"],
        ["model=checkpoint", "model.path={checkpoint}"],
    ],
)
def test_what_is_not_trained_in_four_ways_is_refused(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = tmp_path / "model", tmp_path / "results"
    random_model("qwen3_moe").save_pretrained(checkpoint)
    word_tokenizer().save_pretrained(checkpoint)
    given = [override.format(checkpoint=checkpoint) for override in overrides]
    assert main(["analyze", "analysis.origin=true", *given, f"paths.results={out}"]) == 2
    said = capsys.readouterr().err
    assert "analysis.origin: wants an embedded model" in said
    assert said.count("\n") == 1
    assert not out.exists()
