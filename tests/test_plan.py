"""`dsmoe plan`: published sizes from configs alone, what fits, and which cells are finished; nothing is written."""

import gc
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, random_model, random_records, word_tokenizer
from transformers.modeling_flash_attention_utils import FLASH_ATTENTION_COMPATIBILITY_MATRIX
from transformers.utils import is_flash_attn_2_available, is_kernels_available

from dsmoe.cli import main

PAPER = Path(__file__).parent / "configs"
"""The config.json of each model of the paper."""


@dataclass(frozen=True)
class Published:
    """Parameters in billions, as published to a last digit worth `unit`, and gibibytes of the checkpoint if quantised.

    Whether the embedding is among the active parameters differs from source to source.
    """

    total: float
    active: float
    source: str
    with_embedding: bool = True
    unit: float = 0.0
    active_unit: float = 0.0
    checkpoint: float | None = None


PUBLISHED = {
    "phi_tiny": Published(3.8, 1.1, "model card", with_embedding=False, active_unit=0.1),
    "olmoe": Published(6.92, 1.3, "arXiv 2409.02060"),
    "qwen1.5_moe": Published(14.3, 2.7, "model card"),
    "deepseek_moe": Published(16.4, 2.8, "arXiv 2401.06066"),
    "gpt_oss_20b": Published(20.91, 3.61, "arXiv 2508.10925", with_embedding=False, checkpoint=12.8),
    "gpt_oss_120b": Published(116.83, 5.13, "arXiv 2508.10925", with_embedding=False, checkpoint=60.8),
    # Whole billions, rounded down: the exact counts are 21.83 and, without the embedding, 3.09.
    "ernie_4.5_thinking": Published(21, 3, "model card", with_embedding=False, unit=1, active_unit=1),
    "qwen3_30b_instruct": Published(30.5, 3.3, "model card"),
    "qwen3_30b_thinking": Published(30.5, 3.3, "model card"),
    # "A3B" is a whole number too.
    "qwen3_next_thinking": Published(80, 3, "model card", with_embedding=False, active_unit=1),
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`dsmoe` in an empty folder: status, standard output and standard error."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A checkpoint and records."""
    model, tokenizer = random_model("olmoe"), word_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {"domain": one.domain, "question": one.question, "options": one.options, "answer": one.answer}
        for domain in ("alpha", "beta")
        for one in random_records(20, domain)
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def on(files: Path) -> tuple[str, ...]:
    return (
        "model=checkpoint", f"model.path={files / 'model'}", "model.threads=1", "dataset=records",
        f"dataset.path={files / 'records.jsonl'}", "domain=alpha", "methods=[base]", "benchmark.limit=2",
    )  # fmt: skip


def number(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1])


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes_from_the_config_alone(name: str, run: Run) -> None:
    published = PUBLISHED[name]
    status, out, err = run(
        "plan",
        "model=checkpoint",
        f"model.path={PAPER / name}",
        "model.dtype=bfloat16",
        "cluster=gpu",
        "cluster.gpus=8",
    )
    assert (status, err) == (0, "")
    total = number(out, r"parameters +([\d.]+) billion")
    active = number(out, r"([\d.]+) billion active")
    if not published.with_embedding:
        active -= number(out, r"([\d.]+) billion of them the embedding")
    assert total == pytest.approx(published.total, rel=0.02, abs=published.unit)
    assert active == pytest.approx(published.active, rel=0.02, abs=published.active_unit)
    assert number(out, r"weights +([\d.]+) GB in bfloat16") == pytest.approx(
        2 * published.total, rel=0.02, abs=2 * published.unit
    )
    stored = 2 * published.total * 1e9 if published.checkpoint is None else published.checkpoint * 2**30
    assert number(out, r"checkpoint +([\d.]+) GB, estimated") * 1e9 == pytest.approx(
        stored, rel=0.02, abs=2e9 * published.unit
    )
    assert "1 cell; they cannot be named before the weights are there" in out
    assert os.listdir() == []


@pytest.mark.parametrize(("arguments", "expected"), [((), 0), (("domain=geology",), 2)])
def test_garbage_is_collected_again_afterwards(arguments: tuple[str, ...], expected: int, run: Run) -> None:
    status, _, _ = run("plan", *arguments)
    assert status == expected
    assert gc.isenabled()


def test_every_model_of_the_paper_has_a_config() -> None:
    assert sorted(folder.name for folder in PAPER.iterdir()) == sorted(PUBLISHED)


@pytest.mark.parametrize(
    ("name", "gpus", "limit"),
    [
        ("olmoe", 1, "the weights"),
        ("gpt_oss_120b", 4, "the weights"),
        ("qwen3_30b_instruct", 2, "discovery; the weights alone want 1"),
        ("gpt_oss_120b", 5, "discovery; the weights alone want 4"),
    ],
)
def test_gpus_are_counted_with_what_limits(name: str, gpus: int, limit: str, run: Run) -> None:
    path = f"model.path={PAPER / name}"
    checkpointing = [] if limit == "the weights" else ["discovery.checkpointing=false"]
    cluster = ("model.dtype=bfloat16", "cluster=gpu", "cluster.gpus=8", *checkpointing)
    _, out, _ = run("plan", "model=checkpoint", path, *cluster)
    assert f"GPUs        {gpus} × 80 GB, limited by {limit}\n" in out


def test_what_may_not_fit_is_a_warning_that_names_the_key(run: Run) -> None:
    qwen = ("model=checkpoint", f"model.path={PAPER / 'qwen3_30b_instruct'}", "model.dtype=bfloat16", "cluster=gpu")
    assert "fits in 1 × 80 GB" in run("plan", *qwen)[1]
    status, out, _ = run("plan", *qwen, plain := "discovery.checkpointing=false")
    assert status == 0
    assert "may not fit in 1 × 80 GB" in out
    tokens = int(number(out, r"warning: discovery\.batch_tokens: 4096 tokens a pass want .* lower it to (\d+)"))
    assert 512 < tokens < 4096
    status, out, _ = run("plan", *qwen, plain, f"discovery.batch_tokens={tokens}")
    assert "fits in 1 × 80 GB" in out
    assert "warning" not in out
    status, out, _ = run("plan", *qwen, plain, f"discovery.batch_tokens={tokens}", "benchmark.batch_size=64")
    assert (status, "warning: benchmark.batch_size: 64 sequences of 512 tokens want" in out) == (0, True)


@pytest.mark.parametrize("verb", ["plan", "compare", "evaluate", "discover"])
def test_what_cannot_fit_is_refused_before_anything_is_written(verb: str, files: Path, run: Run) -> None:
    status, out, err = run(verb, *on(files), "cluster.gpus=0", "cluster.memory_gb=1e-4")
    assert (status, out) == (2, "")
    assert re.fullmatch(
        r"dsmoe: cluster\.memory_gb: model checkpoint has .* but there are 0\.1 MB of memory and no GPU; .*\n", err
    )
    assert os.listdir() == []


def test_weights_larger_than_the_gpus_are_refused(run: Run) -> None:
    status, out, err = run(
        "plan", "model=checkpoint", f"model.path={PAPER / 'gpt_oss_120b'}", "model.dtype=bfloat16", "cluster=gpu"
    )
    assert (status, out) == (2, "")
    assert err == (
        "dsmoe: cluster.gpus: model checkpoint has 233.7 GB of weights in bfloat16, but there are 1 × 80 GB of GPU "
        "memory; 4 × 80 GB would hold what it needs\n"
    )


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        (("model=olmoe",), ("model.path: allenai/OLMoE-1B-7B-0924", "Hub")),
        (("model=checkpoint", "model.path=./nowhere"), ("model.path: nowhere is not a folder",)),
        (("model.pretrain.top_k=17",), ("model.pretrain: top_k is 17",)),
        (("model.pretrain.hidden_size=16",), ("model.pretrain: no model can be made of its config",)),
        (("domain=alchemy",), ("domain: 'alchemy' is not one of biology",)),
    ],
)
def test_bad_input_is_one_line(overrides: tuple[str, ...], fragments: tuple[str, ...], run: Run) -> None:
    status, out, err = run("plan", *overrides)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"dsmoe: .*\n", err)
    assert [fragment for fragment in fragments if fragment not in err] == []
    assert os.listdir() == []


@pytest.mark.parametrize("verb", ["plan", "compare"])
@pytest.mark.parametrize("of", ["embedded", "files"])
@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("attn_implementation=sdap", "'sdap' is not one of eager, flash_attention_2, "),
        ("attn_implementation=flash_attention_2", "'flash_attention_2' cannot be used here: FlashAttention2 "),
        ("attn_implementation=kernels-community/flash-attn2", "wants the package kernels"),
        (
            "experts_implementation=eagre",
            "'eagre' is not one of batched_mm, deepgemm, eager, grouped_mm, sonicmoe; did",
        ),
        ("experts_implementation=sonicmoe", "wants the package kernels"),
    ],
)
def test_an_impossible_implementation_is_refused(
    override: str, fragment: str, of: str, verb: str, files: Path, run: Run
) -> None:
    if is_kernels_available() or is_flash_attn_2_available():
        pytest.skip("kernels are installed here")
    status, out, err = run(verb, *(on(files) if of == "files" else ()), f"model.{override}")
    assert (status, out) == (2, "")
    assert re.fullmatch(rf"dsmoe: model\.{override.partition('=')[0]}: .*\n", err)
    assert fragment in err
    assert os.listdir() == []


def test_an_implementation_that_the_models_class_has_not_is_refused(files: Path, run: Run) -> None:
    random_model("gpt_oss").save_pretrained(files / "model")
    assert run("plan", *on(files), "model.attn_implementation=eager")[0] == 0
    status, _, err = run("plan", *on(files), "model.attn_implementation=sdpa")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("dsmoe: model.attn_implementation: 'sdpa' is not for this model: GptOssForCausalLM does not")


def test_flash_attention_that_is_installed_is_not_refused_for_want_of_a_gpu(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.setitem(FLASH_ATTENTION_COMPATIBILITY_MATRIX[2], "pkg_availability_check", lambda: True)
    flash = ("model.attn_implementation=flash_attention_2", "cluster=gpu")
    assert run("plan", *flash, "model.device=auto")[0] == 0
    assert run("plan", *flash, "model.device=cpu")[0] == 2


def test_gpus_without_memory_are_refused(run: Run) -> None:
    if torch.cuda.is_available():
        pytest.skip("the memory is that of the GPU here")
    status, _, err = run("plan", "cluster.gpus=1")
    assert (status, "cluster.gpu_memory_gb: wants a value" in err) == (2, True)


def test_finished_cells_are_told_from_missing_ones(files: Path, run: Run) -> None:
    status, out, _ = run("plan", *on(files))
    assert (status, "1 cell: 0 finished, 1 missing" in out) == (0, True)
    assert os.listdir() == []
    (cell,) = re.findall(r"missing +results/default/(\w+)", out)
    assert run("compare", *on(files))[0] == 0
    assert sorted(os.listdir("results/default")) == [".logs", cell]
    before = sorted(Path("results").rglob("*"))
    status, out, _ = run("plan", "-m", *on(files), "benchmark.batch_size=16,8", "seed=0,1")
    assert "4 cells: 1 finished, 3 missing" in out
    assert re.findall(r"finished +results/default/(\w+)  .*batch_size=16 seed=0", out) == [cell]
    assert len(re.findall(r"^checkpoint \(", out, re.MULTILINE)) == 2  # one batch size each, whatever the seed
    assert sorted(Path("results").rglob("*")) == before


def test_a_missing_cell_says_why_what_is_missing_and_how_long_it_takes(files: Path, run: Run) -> None:
    _, out, _ = run("plan", *on(files))
    assert "0 finished, 1 missing; 2 stages to make, about" in out
    assert re.search(r"evaluate +2, [\d.e-]+ seconds, assuming 10 GFLOP/s and 10 GB/s\n", out)
    assert re.search(r"\(never run; all 2 stages missing, [\d.e-]+ seconds\)\n", out)
    assert run("compare", *on(files))[0] == 0
    # Another seed asks the base model nothing new.
    assert "(never run; its 2 stages are there)\n" in run("plan", *on(files), "seed=1")[1]
    (cell,) = Path("results/default").glob("*/status.json")
    shutil.rmtree(cell.parent)
    status = next(
        status
        for status in Path("results/stages/evaluate").glob("*/status.json")
        if json.loads(status.read_text())["domain"] == "beta"
    )
    shutil.rmtree(status.parent)
    _, out, _ = run("plan", *on(files))
    assert "0 finished, 1 missing; 1 stage to make, about" in out
    assert re.search(r"\(finished once, its folder is gone; 1 of 2 stages missing: evaluate base on beta, .*\)\n", out)
    taken = json.loads(next(Path("results/stages/evaluate").glob("*/status.json")).read_text())
    told = number(out, r"evaluate +1, ([\d.]+) seconds, as 1 finished of this model took")
    # The other domain has questions of about the same length.
    assert told == pytest.approx(taken["own_seconds"], rel=0.6)


def test_what_a_power_cut_left_of_a_stage_is_no_stage(files: Path, run: Run) -> None:
    assert run("compare", *on(files))[0] == 0
    stage, _ = Path("results/stages/evaluate").iterdir()
    left = stage.rename(stage.with_name(f".{stage.name}.partial"))
    for content in ("", "{}"):
        (left / "status.json").write_text(content)
        status, out, err = run("plan", *on(files), "seed=1")
        assert (status, err) == (0, "")
        assert "(never run; 1 of 2 stages missing: evaluate base on" in out


def test_stages_that_cells_share_count_once(files: Path, run: Run) -> None:
    two = [*on(files), "methods=[base,dsmoe]", "steering.num_experts=2", "steering.strength=1,4"]
    _, out, _ = run("plan", "-m", *two)
    assert "2 missing; 8 stages to make" in out  # discover, score, base on two domains; dsmoe on two for each strength
    first, second = re.findall(r"all 6 stages missing, ([\d.e-]+) seconds", out)
    assert float(second) < float(first)
    assert number(out, r"about ([\d.e-]+) seconds") == pytest.approx(float(first) + float(second), rel=0.1)


def test_what_a_run_failed_of_is_said(files: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no luck")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no luck"):
        patch.setattr("dsmoe.evaluation.evaluate.evaluate", fails)
        run("compare", *on(files))
    assert "(failed: RuntimeError: no luck; all 2 stages missing" in run("plan", *on(files))[1]


def test_a_gpu_is_faster_and_generating_takes_longer() -> None:
    from dsmoe.models.duration import Work, assumed

    work = Work(flop=1e15, read_bytes=1e12)
    seconds = [
        assumed(*node).seconds(work)
        for node in (("cuda", 1, "bfloat16"), ("cuda", 1, "float32"), ("cpu", 8, "bfloat16"))
    ]
    # By hand: 1e15 / (0.25 × 312e12) + 1e12 / (0.25 × 2e12), and so on.
    assert seconds == pytest.approx([12.82 + 2, 205.13 + 2, 12500 + 100], rel=1e-3)


def test_cells_are_named_only_where_they_can_be(files: Path, run: Run) -> None:
    bare = files / "bare"
    CONFIGS["olmoe"]().save_pretrained(bare)
    _, out, _ = run("plan", *on(files), f"model.path={bare}")
    assert out.endswith("1 cell; they cannot be named before the weights are there\n")
    _, out, _ = run("plan", "-m", *on(files), "dataset=mmlu_pro", "dataset.path=null", "seed=0,1")
    assert "2 cells; they cannot be named before the data are here" in out
    if not torch.cuda.is_available():
        _, out, _ = run("plan", *on(files), "cluster=gpu")
        assert "they cannot be named before they run: bits differ between CPU and GPU" in out


def test_the_embedded_model_is_planned_for_without_being_trained(run: Run) -> None:
    status, out, _ = run("plan")
    assert status == 0
    assert re.match(r"tiny \(embedded, qwen3_moe\)\n  parameters  3\.68 million", out)
    assert "none to download" in out
    assert "fine-tuning (method sft) is not counted in this memory" in out
    assert "1 cell: 0 finished, 1 missing" in out
    assert "discovery   none" in run("plan", "methods=[base]")[1]
    assert os.listdir() == []
