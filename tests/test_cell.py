"""What a cell and each of its stages depend on: everything scientific, and nothing else."""

from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
from conftest import random_model, word_tokenizer

from dsmoe.agenda import Agenda
from dsmoe.cell import Cell
from dsmoe.compose import compose_cells
from dsmoe.inputs import Inputs
from dsmoe.methods import Trial, discovers, known

BASE, DSMOE, SFT, RANDOM = "base", "dsmoe", "sft", "random"
STAGES = {"pretrain", "discover", "score", "fine_tune", BASE, DSMOE, SFT, RANDOM}
MODEL = STAGES - {"pretrain"}
EVALUATIONS = {BASE, DSMOE, SFT, RANDOM}


def hashes(*overrides: str) -> dict[str, str]:
    """The cell's id and the hashes of its stages, the evaluations on chemistry by their method."""
    (composed,) = compose_cells(overrides)
    cell = Cell(composed.config)
    assert cell.pretrain is not None
    stages = {
        "pretrain": cell.pretrain,
        "discover": cell.discover((composed.config.domain,)),
        "score": cell.score(composed.config.discovery.rule, composed.config.domain),
        "fine_tune": cell.fine_tune(composed.config.sft),
        **{method: cell.evaluate(Trial(method), "chemistry") for method in sorted(EVALUATIONS)},
    }
    return {"cell": cell.id, **{name: stage.hash for name, stage in stages.items()}}


@pytest.fixture(scope="module")
def defaults() -> dict[str, str]:
    return hashes()


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("model.pretrain.seed=7", STAGES),
        ("model.pretrain.steps=7", STAGES),
        ("model.pretrain.planted_loss=0.1", STAGES),
        ("model.dtype=bfloat16", MODEL),
        ("model.threads=2", MODEL),
        ("model.experts_implementation=eager", MODEL),
        ("model.attn_implementation=eager", MODEL),
        ("dataset.splits={discover:0.2,dev:0.1,test:0.7}", {"discover", "score", "fine_tune", DSMOE, SFT, RANDOM}),
        ("discovery.quantile=0.3", {"discover", "score", DSMOE, RANDOM}),
        ("discovery.stop_words=[a]", {"discover", "score", DSMOE, RANDOM}),
        ("discovery.batch_tokens=64", {"discover", "score", DSMOE, RANDOM}),
        ("discovery.limit=5", {"discover", "score", DSMOE, RANDOM}),
        ("discovery.span=options", {"discover", "score", DSMOE, RANDOM}),
        ("+discovery.markers.Which=1", {"discover", "score", DSMOE, RANDOM}),
        ("discovery.max_new_tokens=9", set()),
        ("steering.strength=auto", {DSMOE, RANDOM}),
        ("steering.num_experts=auto", {DSMOE, RANDOM}),
        ("sft.epochs=auto", {"fine_tune", SFT}),
        ("steering.random_draws=2", set()),
        ("discovery=frequency", {"score", DSMOE, RANDOM}),
        ("steering.strength=1", {DSMOE, RANDOM}),
        ("steering.num_experts=3", {DSMOE, RANDOM}),
        ("sft.epochs=2", {"fine_tune", SFT}),
        ("sft.train_size=5", {"fine_tune", SFT}),
        ("sft.processes=2", {"fine_tune", SFT}),
        ("sft.learning_rate=1e-5", {"fine_tune", SFT}),
        ("benchmark.limit=9", EVALUATIONS),
        ("benchmark.batch_size=3", EVALUATIONS),
        ("benchmark.metric=acc_norm", EVALUATIONS),
        ("benchmark=letter", {"fine_tune", *EVALUATIONS}),
        ("seed=1", {"score", "fine_tune", DSMOE, SFT, RANDOM}),
        ("benchmark.non_target=[biology]", set()),
        ("methods=[base]", set()),
    ],
)
def test_what_is_scientific_changes_the_cell_and_what_depends_on_it(
    override: str, changed: set[str], defaults: dict[str, str]
) -> None:
    now = hashes(override)
    assert {name for name in now if now[name] != defaults[name]} == changed | {"cell"}


@pytest.mark.parametrize(
    "override",
    [
        "paths.results=elsewhere",
        "paths.export=there",
        "study=other",
        "model.device=cpu",
        "model.device_map=balanced",
        "discovery.checkpointing=true",
        "cluster=gpu",
        "cluster.memory_gb=512",
        "tracking.mode=online",
        "tracking.project=other",
    ],
)
def test_transport_changes_nothing(override: str, defaults: dict[str, str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("device auto means the GPU here")
    assert hashes(override) == defaults


def test_results_show_nothing_of_where_they_were_made() -> None:
    (composed,) = compose_cells(["cluster=gpu"])
    assert {"domain", "model", "seed"} <= set(content := Cell(composed.config).content)
    assert content.keys().isdisjoint({"paths", "study", "cluster", "tracking"})


def test_another_target_asks_the_base_model_nothing_new(defaults: dict[str, str]) -> None:
    now = hashes("domain=biology")
    assert now["cell"] != defaults["cell"]
    assert now[BASE] == defaults[BASE]
    assert {name for name in STAGES if now[name] != defaults[name]} == {
        "discover",
        "score",
        "fine_tune",
        DSMOE,
        SFT,
        RANDOM,
    }


def test_trusted_code_makes_another_model(tmp_path: Path) -> None:
    """The checkpoint's own class may compute otherwise than that of transformers."""
    random_model("olmoe").save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    own = ("model=checkpoint", f"model.path={tmp_path}", "methods=[base]")
    cells = [Cell(compose_cells([*own, f"model.trust_remote_code={trust}"])[0].config) for trust in ("false", "true")]
    plain, trusting = ({stage.hash for stage in cell.stages} for cell in cells)
    assert plain.isdisjoint(trusting)


def test_files_count_by_their_content(tmp_path: Path) -> None:
    def cell(path: Path) -> str:
        overrides = ["dataset=records", f"dataset.path={path}", "domain=d", "methods=[base]", "benchmark=letter"]
        (composed,) = compose_cells(overrides)
        return Cell(composed.config).id

    row = '{"domain": "d", "question": "%s", "options": ["x", "y"], "answer": 0}\n'
    one, two, other = tmp_path / "one.jsonl", tmp_path / "two.jsonl", tmp_path / "other.jsonl"
    one.write_text("".join(row % number for number in range(20)))
    two.write_text("".join(row % number for number in reversed(range(20))))
    other.write_text("".join(row % number for number in range(1, 21)))
    assert cell(one) == cell(two) != cell(other)


@pytest.mark.parametrize("rule", ["dsmoe", "frequency", "risk_difference"])
@pytest.mark.parametrize("profile", [None, "own.safetensors"])
def test_a_config_tells_whether_anything_is_discovered(rule: str, profile: str | None) -> None:
    """As the agenda does, which has read the data."""
    (composed,) = compose_cells([f"discovery={rule}"])
    of_rule = replace(composed.config, discovery=replace(composed.config.discovery, profile=profile))
    for one, other in combinations_with_replacement(set(known()) - {"oracle", "steering"}, 2):
        config = replace(of_rule, methods=tuple({one, other}))
        assert discovers(config) == bool(Agenda(config, Inputs(config)).discovered), config.methods


def test_each_domain_is_held_against_all_others() -> None:
    """The control's domain too: it is no contrast to itself, and the target is one to it."""
    overrides = ["domain=chemistry", "discovery=risk_difference", "methods=[base,dsmoe,other_domain]"]
    cell = Cell(compose_cells(overrides)[0].config)
    others = {"biology", "chemistry", "computing", "geography", "languages", "mathematics"}
    assert [set(domains) for domains in cell.agenda.discovered] == [
        {"chemistry"}, others - {"chemistry"}, {"computing"}, others - {"computing"},
    ]  # fmt: skip
    assert cell.score("risk_difference", "chemistry").hash != cell.score("risk_difference", "computing").hash
