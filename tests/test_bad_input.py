"""Bad input of every kind: status 2, one clear line on standard error, and nothing written."""

import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_model, random_records, word_tokenizer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from dsmoe.cell import Cell
from dsmoe.cli import main
from dsmoe.compose import compose_cells
from dsmoe.discovery.counts import RoutingCounts
from dsmoe.discovery.profile import DiscoveryReport, ExpertProfile

LAYERS, EXPERTS = (0, 2), 8
"""Of the checkpoint: its layer 1 is dense."""

RECORDS = ("dataset=records", "dataset.path={files}/good.jsonl", "domain=alpha")
GOOD = ("model=checkpoint", "model.path={files}/good", *RECORDS, "methods=[base]", "benchmark.limit=2")
STEERING = {"schema": 1, "mode": "logit", "strength": 1.0, "experts": {"0": [1, 2]}, "num_experts": EXPERTS}
DISCOVERS = "methods=[dsmoe]"
ADAPTER = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
ROW = {"domain": "alpha", "question": "q", "options": ["x", "y"], "answer": 0}

Files = Callable[[Path], object]


def text(name: str, content: str) -> Files:
    def make(folder: Path) -> None:
        (folder / name).write_text(content, encoding="utf-8")

    return make


def rows(name: str, *changes: dict[str, object]) -> Files:
    return text(
        name, "".join(json.dumps({**ROW, "question": f"q{n}", **change}) + "\n" for n, change in enumerate(changes))
    )


def steering(name: str, **changes: object) -> Files:
    return text(name, json.dumps({key: value for key, value in {**STEERING, **changes}.items() if value is not ...}))


def profile_with(name: str, facts: dict[str, object] | None = None, **tensors: torch.Tensor | None) -> Files:
    """A copy of the good profile with some of its metadata or its tensors changed."""

    def make(folder: Path) -> None:
        kept = load_file(folder / "good.safetensors")
        kept = {key: value for key, value in {**kept, **tensors}.items() if value is not None}
        changed = {**profile_facts(folder / "good.safetensors"), **(facts or {})}
        metadata = {"dsmoe_profile": json.dumps({k: v for k, v in changed.items() if v is not ...})}
        save_file(kept, folder / name, metadata=metadata)

    return make


def profile_facts(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    facts: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["dsmoe_profile"])
    return facts


def checkpoint(name: str, change: Files) -> Files:
    """A copy of the good checkpoint, spoiled."""

    def make(folder: Path) -> None:
        shutil.copytree(folder / "good", folder / name)
        change(folder / name)

    return make


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Files:
    def make(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return make


def settings(**changes: object) -> Files:
    def make(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        content = {key: value for key, value in {**content, **changes}.items() if value is not ...}
        (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")

    return make


def removed(*names: str) -> Files:
    def make(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return make


def truncated(name: str) -> Files:
    def make(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return make


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def lacking_shard(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def on_logits(folder: Path) -> None:
    random_model("gpt_oss").save_pretrained(folder / "on_logits")
    word_tokenizer().save_pretrained(folder / "on_logits")


def llama(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=200, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder / "llama")
    word_tokenizer().save_pretrained(folder / "llama")


def adapter(name: str, content: str | None, tensors: dict[str, torch.Tensor] | bytes | None = None) -> Files:
    def make(folder: Path) -> None:
        (folder / name).mkdir()
        if content is not None:
            (folder / name / "adapter_config.json").write_text(content)
        if isinstance(tensors, bytes):
            (folder / name / "adapter_model.safetensors").write_bytes(tensors)
        elif tensors is not None:
            save_file(tensors, folder / name / "adapter_model.safetensors")

    return make


def nothing(_: Path) -> None:
    """No file beside the good ones."""


def on(key: str, name: str, *more: str) -> tuple[str, ...]:
    return (f"{key}={{files}}/{name}", *more)


def own_data(name: str) -> tuple[str, ...]:
    return on("dataset.path", name)


def own_model(name: str) -> tuple[str, ...]:
    return on("model.path", name)


def own_steering(name: str) -> tuple[str, ...]:
    return on("steering.file", name, "methods=[steering]")


def own_profile(name: str) -> tuple[str, ...]:
    return on("discovery.profile", name, "methods=[dsmoe]")


def own_adapter(name: str) -> tuple[str, ...]:
    return on("sft.adapter", name, "methods=[sft]")


SCORES = torch.rand(len(LAYERS), EXPERTS)
Case = tuple[str, Files, tuple[str, ...], tuple[str, ...]]
CASES: list[Case] = [
    # Configs; tests/test_config.py has more of them.
    ("unknown key", nothing, ("steering.strengh=4",), ("steering.strengh", "did you mean steering.strength?")),
    (
        "unknown method to plan",
        nothing,
        ("plan", "methods=[bsae]"),
        ("'bsae' is not one of base", "did you mean base?"),
    ),
    ("unknown choice", nothing, ("discovery=dsmo",), ("discovery: 'dsmo'", "dsmoe_code")),
    ("wrong type", nothing, ("steering.strength=high",), ("steering.strength: 'high'", "a number")),
    ("impossible value", nothing, ("steering.strength=-1",), ("steering.strength: -1", "greater than -1")),
    ("unknown method", nothing, ("methods=[bass]",), ("methods: 'bass'", "random, other_domain", "did you mean base?")),
    ("not KEY=VALUE", nothing, ("strength",), ("'strength'", "KEY=VALUE")),
    ("sweep without -m", nothing, ("steering.strength=1,2",), ("steering.strength=1,2", "-m")),
    ("bad cell of a sweep", nothing, ("-m", "steering.strength=1,-2"), ("steering.strength: -2", "greater than -1")),
    ("bad last domain", nothing, ("-m", "domain=alpha,beta,gama"), ("domain: 'gama'", "alpha, beta, gamma")),
    ("study outside", nothing, ("study=../elsewhere",), ("study: '../elsewhere'", "plain name")),
    ("study as path", nothing, ("study=a/b",), ("study: 'a/b'", "plain name")),
    ("study of stages", nothing, ("study=stages",), ("study: 'stages'",)),
    ("no GPU", nothing, ("model.device=cuda",), ("model.device", "cpu and auto")),
    ("no model path", nothing, ("model.path=null",), ("model: path and pretrain",)),
    ("no steering", nothing, ("methods=[steering]",), ("methods: steering", "steering.file=FILE")),
    ("unknown rule", nothing, ("discovery.rule=dsmoo",), ("discovery.rule: 'dsmoo'", "did you mean dsmoe?")),
    ("unknown source", nothing, ("dataset.source=../x",), ("dataset.source: '../x'", "mmlu_pro, records, world")),
    ("metric of another task", nothing, ("benchmark.metric=exact_match",), ("benchmark.metric", "acc, acc_norm")),
    ("too many experts", nothing, ("steering.num_experts=17",), ("steering.num_experts: 17", "1 to 16")),
    (
        "too many in the window",
        nothing,
        ("steering.num_experts=9", "steering.layers=[0,0]"),
        ("steering.num_experts: 9", "1 to 8"),
    ),
    (
        "a window beyond the model",
        nothing,
        (DISCOVERS, "steering.layers=[1,3]"),
        ("steering.layers: [1, 3] goes beyond", "0 to 2"),
    ),
    ("no router in the window", nothing, ("steering.layers=[1,1]",), ("steering.layers: no layer from 1 to 1",)),
    ("two methods for evaluate", nothing, ("evaluate", "methods=[base,sft]"), ("methods: evaluate takes one",)),
    ("a sweep for discover", nothing, ("discover", "+sweeps=strength"), ("discover runs one config",)),
    ("a sweep for export", nothing, ("export", "+sweeps=strength"), ("export runs one config",)),
    ("no folder for export", nothing, ("export", *own_steering("good.json")), ("paths.export=FOLDER",)),
    (
        "two methods for export",
        nothing,
        ("export", "methods=[dsmoe,random]"),
        ("export takes one that steers", "dsmoe, random"),
    ),
    ("base for export", nothing, ("export", "methods=[base]"), ("export takes one that steers, such as dsmoe",)),
    ("adapter for export", nothing, ("export", *own_adapter("adapter")), ("export takes one that steers", "not sft")),
    ("export over a folder", nothing, ("export", DISCOVERS, *on("paths.export", "good")), ("good is there already",)),
    (
        "export over a file",
        nothing,
        ("export", DISCOVERS, *on("paths.export", "good.jsonl")),
        ("paths.export", "is there already"),
    ),
    (
        "export below a file",
        nothing,
        ("export", DISCOVERS, *on("paths.export", "good.jsonl/x")),
        ("good.jsonl is not a folder",),
    ),
    (
        "export of another steering",
        nothing,
        ("export", *own_steering("no.json"), *on("paths.export", "new")),
        ("no.json: cannot be read",),
    ),
    ("unknown flag", nothing, ("--fast",), ("--fast", "--multirun")),
    (
        "results in a file",
        nothing,
        ("paths.results={files}/good.jsonl/x",),
        ("paths.results", "cannot be written: not a directory"),
    ),
    # Memory; tests/test_plan.py has more of it.
    (
        "weights larger than memory",
        nothing,
        ("cluster.gpus=0", "cluster.memory_gb=1e-6"),
        ("cluster.memory_gb: model checkpoint has", "of weights in float32", "1 × 80 GB would hold"),
    ),
    (
        "weights larger than the GPUs",
        nothing,
        ("discover", "cluster=gpu", "cluster.gpus=2", "cluster.gpu_memory_gb=2e-5", "model.device=auto"),
        ("cluster.gpu_memory_gb: 0.0 MB is no more than a CUDA context takes",),
    ),
    ("GPUs of no memory", nothing, ("cluster.gpus=1", "cluster.gpu_memory_gb=0"), ("cluster.gpu_memory_gb: 0",)),
    ("a count below none", nothing, ("cluster.gpus=-1",), ("cluster.gpus: -1", "greater than or equal to 0")),
    # Domains and splits.
    ("unknown domain", nothing, ("domain=alfa",), ("domain: 'alfa'", "alpha, beta, gamma", "did you mean alpha?")),
    ("unknown other", nothing, ("benchmark.non_target=[bet]",), ("benchmark.non_target: 'bet'", "did you mean beta?")),
    ("target as other", nothing, ("benchmark.non_target=[alpha]",), ("benchmark.non_target", "is the target")),
    (
        "no test questions",
        nothing,
        ("dataset.splits={discover:0.9,dev:0.09,test:0.01}",),
        ("domain: 'alpha' has no test questions",),
    ),
    (
        "nothing to discover on",
        rows("tests.jsonl", {"split": "test"}, {"split": "test"}),
        (*own_data("tests.jsonl"), "methods=[dsmoe]"),
        ("domain: 'alpha'", "discover split"),
    ),
    (
        "leak between splits",
        rows("leak.jsonl", {"split": "dev", "id": "a", "group": "g"}, {"split": "test", "id": "b", "group": "g"}),
        own_data("leak.jsonl"),
        ("leak.jsonl: 1 leaks", "'a' in dev", "'b' in test", "share a group"),
    ),
    (
        "some without split",
        rows("half.jsonl", {"split": "dev"}, {"id": "bare"}),
        own_data("half.jsonl"),
        ("half.jsonl: record 'bare' names no split", "discover, dev or test"),
    ),
    (
        "unknown split",
        rows("train.jsonl", {"split": "train", "id": "odd"}),
        own_data("train.jsonl"),
        ("train.jsonl: record 'odd'", "'train'", "discover, dev, test"),
    ),
    # Records; tests/test_records.py has more of them.
    ("no records file named", nothing, ("dataset.path=null",), ("dataset.path", "dataset.path=FILE")),
    ("missing records", nothing, own_data("none.jsonl"), ("none.jsonl", "No such file")),
    ("folder of records", nothing, own_data("good"), ("good", ".jsonl, .json, .csv, .parquet")),
    ("empty records", text("empty.jsonl", ""), own_data("empty.jsonl"), ("empty.jsonl: has no records",)),
    ("not JSON", text("broken.jsonl", "\n{oops\n"), own_data("broken.jsonl"), ("broken.jsonl:2: is not JSON",)),
    ("bad answer", rows("answer.jsonl", {}, {"answer": "E"}), own_data("answer.jsonl"), ("answer.jsonl:2:", "A to B")),
    ("one option", rows("one.jsonl", {"options": ["x"]}), own_data("one.jsonl"), ("one.jsonl:1:", "2 to 26")),
    ("same id", rows("id.jsonl", {"id": 1}, {"id": 1}), own_data("id.jsonl"), ("id.jsonl:2: id '1'", "id.jsonl:1")),
    (
        "several bad records",
        rows("bad.jsonl", {"question": ""}, {}, {"options": 3}),
        own_data("bad.jsonl"),
        ("bad.jsonl: 2 bad records", "bad.jsonl:1: field 'question' is empty", "bad.jsonl:3: field 'options' is int"),
    ),
    (
        "broken gzip",
        lambda folder: (folder / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 99)[:20]),
        own_data("cut.jsonl.gz"),
        ("cut.jsonl.gz: cannot be read",),
    ),
    ("a file for the world", nothing, ("dataset=world", "domain=biology"), ("dataset.path", "dataset.source=records")),
    # Stop words.
    (
        "missing stop words",
        nothing,
        on("discovery.stop_words", "no.txt", DISCOVERS),
        ("discovery.stop_words", "no.txt", "english"),
    ),
    (
        "stop words in Latin-1",
        lambda folder: (folder / "latin.txt").write_bytes("café".encode("latin-1")),
        on("discovery.stop_words", "latin.txt", DISCOVERS),
        ("discovery.stop_words", "latin.txt"),
    ),
    (
        "a row of GPQA that is a list",
        text("gpqa.jsonl", '["x"]\n'),
        ("dataset=gpqa", *own_data("gpqa.jsonl"), "domain=physics"),
        ("gpqa.jsonl:1: is list, not an object",),
    ),
    # Profiles.
    ("missing profile", nothing, own_profile("none.safetensors"), ("none.safetensors", "cannot be read")),
    ("profile of text", text("p.safetensors", "{}"), own_profile("p.safetensors"), ("p.safetensors", "cannot be read")),
    (
        "weights for a profile",
        nothing,
        own_profile("good/model.safetensors"),
        ("model.safetensors: is not an expert profile of schema 2",),
    ),
    (
        "profile of another schema",
        profile_with("schema.safetensors", {"schema": 1}),
        own_profile("schema.safetensors"),
        ("schema.safetensors: is not an expert profile of schema 2",),
    ),
    (
        "profile without counts",
        profile_with("counts.safetensors", important=None),
        own_profile("counts.safetensors"),
        ("counts.safetensors: tensor 'important' is missing",),
    ),
    (
        "profile of two shapes",
        profile_with("shape.safetensors", scores=torch.rand(2, 7)),
        own_profile("shape.safetensors"),
        ("shape.safetensors", "[2 layers, experts]"),
    ),
    (
        "profile with NaN",
        profile_with("nan.safetensors", scores=SCORES.log().sub(torch.inf)),
        own_profile("nan.safetensors"),
        ("nan.safetensors: some scores are not finite",),
    ),
    (
        "profile without layers",
        profile_with("layers.safetensors", {"layers": ...}),
        own_profile("layers.safetensors"),
        ("layers.safetensors: layers is None, not list",),
    ),
    (
        "profile with a layer too many",
        profile_with("deep.safetensors", {"layers": [0, 3]}),
        own_profile("deep.safetensors"),
        ("deep.safetensors: layers [0, 3] are not all of 0 to 2",),
    ),
    (
        "profile with a layer twice",
        profile_with("twice.safetensors", {"layers": [2, 2]}),
        own_profile("twice.safetensors"),
        ("twice.safetensors: a layer is named twice",),
    ),
    (
        "profile with half a report",
        profile_with("report.safetensors", {"report": {"tokens": 1}}),
        own_profile("report.safetensors"),
        ("report.safetensors: report", "threshold"),
    ),
    (
        "profile with an unknown field",
        profile_with("field.safetensors", {"colour": "red"}),
        own_profile("field.safetensors"),
        ("field.safetensors: unknown field 'colour'", "top_k"),
    ),
    (
        "profile of another family",
        profile_with("family.safetensors", {"architecture": "mixtral"}),
        own_profile("family.safetensors"),
        ("made for mixtral", "qwen3_moe"),
    ),
    (
        "profile of a dense layer",
        profile_with("dense.safetensors", {"layers": [0, 1]}, scores=torch.eye(2, EXPERTS).flip(0)),
        (*own_profile("dense.safetensors"), "steering.num_experts=4"),
        ("layer 1 has no router", "[0, 2]"),
    ),
    (
        "profile by another rule",
        nothing,
        (*own_profile("good.safetensors"), "discovery=frequency"),
        ("good.safetensors is of discovery.rule 'dsmoe', but discovery.rule is 'frequency'", "steering.file"),
    ),
    (
        "profile of another domain",
        nothing,
        (*own_profile("good.safetensors"), "domain=beta"),
        ("good.safetensors is of domain 'alpha', but domain is 'beta'", "steering.file"),
    ),
    # Steering files.
    ("missing steering", nothing, own_steering("none.json"), ("none.json: cannot be read: No such file",)),
    (
        "more forced than chosen",
        steering("crowd.json", mode="force", experts={"0": [1, 2, 3]}),
        own_steering("crowd.json"),
        ("steering: layer 0: mode force activates 3 experts; with top-2 of 8 at most 2",),
    ),
    (
        "more forced by a profile",
        profile_with("crowd.safetensors", scores=torch.eye(2, EXPERTS).cumsum(1)),
        (*own_profile("crowd.safetensors"), "steering=force", "steering.num_experts=3"),
        ("mode force activates", "at most 2"),
    ),
    (
        "more forced than all layers choose",
        nothing,
        ("methods=[base,dsmoe]", "steering=force", "steering.num_experts=5"),
        ("steering.num_experts: 5 experts are more than the 4 that dsmoe can steer in 2 layers with top-2",),
    ),
    (
        "more forced out than all layers leave",
        nothing,
        ("methods=[base,dsmoe]", "steering=force", "steering.strength=-0.5", "steering.num_experts=13"),
        ("steering.num_experts: 13 experts are more than the 12 that dsmoe can steer in 2 layers with top-2",),
    ),
    (
        "more than a paper's rule takes of a layer",
        nothing,
        ("methods=[base,risk_difference]", "steering.num_experts=5"),
        ("steering.num_experts: 5 experts are more than the 4 that risk_difference can steer in 2 layers",),
    ),
    (
        "a mode that means nothing",
        on_logits,
        (*own_model("on_logits"), "steering=score"),
        ("steering.mode: score means nothing for gpt_oss", "use logit"),
    ),
    (
        "an engine's Python that is none",
        nothing,
        ("backend=vllm", "vllm.python=/nowhere/python"),
        ("vllm.python: /nowhere/python cannot be run",),
    ),
    (
        "an engine's Python without vLLM",
        nothing,
        ("backend=vllm", f"vllm.python={sys.executable}"),
        ("vllm.python", "has no vLLM", "docs/vllm.md"),
    ),
    ("another backend", nothing, ("backend=vlm",), ("backend: 'vlm' is not allowed", "vllm")),
    ("steering of text", text("t.json", "4"), own_steering("t.json"), ("t.json: is not a steering file of schema 1",)),
    ("steering not JSON", text("n.json", "{"), own_steering("n.json"), ("n.json: is not JSON",)),
    ("other schema", steering("s2.json", schema=2), own_steering("s2.json"), ("s2.json: is not", "schema 1")),
    ("no strength", steering("s.json", strength=...), own_steering("s.json"), ("s.json: field 'strength' is missing",)),
    ("word as strength", steering("w.json", strength="4"), own_steering("w.json"), ("w.json", "strength '4'")),
    ("NaN as strength", steering("x.json", strength=float("nan")), own_steering("x.json"), ("x.json", "above -1")),
    ("unknown mode", steering("m.json", mode="lofit"), own_steering("m.json"), ("m.json", "'lofit'", "logit")),
    (
        "unknown field",
        steering("f.json", alpha=5),
        own_steering("f.json"),
        ("f.json: unknown field 'alpha'", "strength"),
    ),
    ("no experts", steering("e.json", experts={}), own_steering("e.json"), ("e.json", "no experts")),
    ("list of experts", steering("l.json", experts=[1]), own_steering("l.json"), ("l.json: experts is not a map",)),
    ("negative expert", steering("g.json", experts={"0": [-1]}), own_steering("g.json"), ("g.json", "expert -1")),
    ("expert twice", steering("d.json", experts={"0": [1, 1]}), own_steering("d.json"), ("d.json: ", "named twice")),
    ("layer twice", steering("b.json", experts={"0": [1], "00": [2]}), own_steering("b.json"), ("b.json", "twice")),
    ("layer name", steering("a.json", experts={"first": [1]}), own_steering("a.json"), ("a.json", "layer 'first'")),
    ("no such expert", steering("8.json", experts={"0": [8]}), own_steering("8.json"), ("8.json", "expert 8 of 8")),
    (
        "dense layer",
        steering("1.json", experts={"1": [1]}),
        own_steering("1.json"),
        ("layer 1 has no router", "[0, 2]"),
    ),
    ("word as layers", steering("y.json", num_layers="3"), own_steering("y.json"), ("y.json", "num_layers '3'", "int")),
    ("word as origin", steering("o.json", origin="me"), own_steering("o.json"), ("o.json", "origin 'me'", "map")),
    ("other width", steering("16.json", num_experts=16), own_steering("16.json"), ("16 experts", "has 8")),
    ("other depth", steering("5.json", num_layers=5), own_steering("5.json"), ("5 layers", "has 3")),
    # Adapters.
    ("missing adapter", nothing, own_adapter("no"), ("sft.adapter", "no is not a folder")),
    ("empty adapter", adapter("a0", None), own_adapter("a0"), ("sft.adapter", "a0", "no adapter_config.json")),
    ("adapter not JSON", adapter("a1", "{"), own_adapter("a1"), ("a1/adapter_config.json is not JSON",)),
    ("no LoRA", adapter("a2", '{"peft_type": "IA3"}'), own_adapter("a2"), ("peft_type is 'IA3'", "'LORA'")),
    (
        "adapter of no weights",
        adapter("a3", json.dumps(ADAPTER)),
        own_adapter("a3"),
        ("has no adapter_model.safetensors",),
    ),
    ("cut weights", adapter("a4", json.dumps(ADAPTER), b"1"), own_adapter("a4"), ("not a whole safetensors file",)),
    (
        "weights of no LoRA",
        adapter("a5", json.dumps(ADAPTER), {"x": torch.ones(1)}),
        own_adapter("a5"),
        ("a5/adapter_model.safetensors holds no LoRA weights",),
    ),
    (
        "adapter of another model",
        adapter("a6", json.dumps(ADAPTER), {"a.lora_A.weight": torch.ones(1)}),
        own_adapter("a6"),
        ("a6 does not fit the model", "q_proj"),
    ),
    (
        "adapter of another family",
        adapter("a7", json.dumps({**ADAPTER, "target_modules": ["c_attn"]}), {"a.lora_A.weight": torch.ones(1)}),
        own_adapter("a7"),
        ("a7 does not fit the model: Target modules", "c_attn"),
    ),
    (
        "adapter of other experts",
        adapter(
            "a8",
            json.dumps({**ADAPTER, "target_modules": [], "target_parameters": ["mlp.experts.w13"]}),
            {"a.lora_A.weight": torch.ones(1)},
        ),
        own_adapter("a8"),
        ("a8 does not fit the model",),
    ),
    (
        "adapter of another model than the embedded one",
        nothing,
        (*on("sft.adapter", "adapter"), "model=tiny", "model.path=null", "methods=[base,sft]"),
        ("adapter does not fit the model",),
    ),
    (
        "float16 to fine-tune in",
        nothing,
        ("methods=[base,sft]", "model.dtype=float16"),
        ("model.dtype: float16 is too narrow for method sft", "bfloat16"),
    ),
    (
        "oracle of what was not planted",
        nothing,
        ("model=planted", "model.path=null", "methods=[base,oracle]"),
        ("domain: nothing was planted for 'alpha', only for biology",),
    ),
    # Checkpoints.
    ("missing checkpoint", nothing, own_model("no"), ("model.path", "no is not a folder")),
    ("file as checkpoint", nothing, own_model("good.jsonl"), ("model.path", "good.jsonl is not a folder")),
    ("no such Hub model", nothing, ("model.path=nobody/nothing",), ("model.path: nobody/nothing", "Hub")),
    (
        "no config",
        checkpoint("m0", removed("config.json")),
        own_model("m0"),
        ("m0 is not a checkpoint: it has no config",),
    ),
    ("config of text", checkpoint("m1", text("config.json", "{")), own_model("m1"), ("m1/config.json is not JSON",)),
    ("no type", checkpoint("m2", settings(model_type=...)), own_model("m2"), ("m2/config.json names no model_type",)),
    ("wrong type in config", checkpoint("m3", settings(num_experts="many")), own_model("m3"), ("model.path", "m3")),
    ("dense model", llama, own_model("llama"), ("llama", "'llama'", "mixtral", "qwen3_moe")),
    ("no experts at all", checkpoint("m4", settings(mlp_only_layers=[0, 1, 2])), own_model("m4"), ("model.path",)),
    (
        "truncated weights",
        checkpoint("m5", truncated("model.safetensors")),
        own_model("m5"),
        ("not a whole safetensors",),
    ),
    ("missing shard", checkpoint("m6", lacking_shard), own_model("m6"), ("m6 lacks model-00002-of-00002",)),
    ("pickled weights", checkpoint("m7", pickled), own_model("m7"), ("m7 has no *.safetensors", "pickled", "convert")),
    ("no weights", checkpoint("m8", removed("model.safetensors")), own_model("m8"), ("m8 has no *.safetensors",)),
    ("no tokenizer", checkpoint("m9", removed("tokenizer.json")), own_model("m9"), ("m9 has no tokenizer",)),
    ("tokenizer of text", checkpoint("t0", text("tokenizer.json", "{]")), own_model("t0"), ("t0 cannot be loaded",)),
    (
        "missing router",
        checkpoint("w0", weights(lambda tensors: tensors.pop("model.layers.2.mlp.gate.weight"))),
        own_model("w0"),
        ("w0 lacks 1 of the model's weights", "model.layers.2.mlp.gate.weight"),
    ),
    (
        "missing expert",
        checkpoint("w1", weights(lambda tensors: tensors.pop("model.layers.2.mlp.experts.3.up_proj.weight"))),
        own_model("w1"),
        ("w1 cannot be loaded", "experts"),
    ),
    (
        "weights of another shape",
        checkpoint("w2", weights(lambda tensors: tensors.update({"model.norm.weight": torch.ones(5)}))),
        own_model("w2"),
        ("w2 has weights of another shape for 1", "model.norm.weight"),
    ),
    ("more layers than weights", checkpoint("w3", settings(num_hidden_layers=4)), own_model("w3"), ("w3 lacks",)),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good and bad files."""
    folder = tmp_path_factory.mktemp("files")
    random_model("qwen3_moe").save_pretrained(folder / "good")
    word_tokenizer().save_pretrained(folder / "good")
    records = [one for domain in ("alpha", "beta", "gamma") for one in random_records(20, domain)]
    lines = [
        {"domain": one.domain, "question": one.question, "options": one.options, "answer": one.answer}
        for one in records
    ]
    (folder / "good.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    counts = torch.ones(len(LAYERS), EXPERTS, dtype=torch.int64)
    ExpertProfile(
        scores=SCORES,
        counts=RoutingCounts(counts, counts, counts, counts.double()),
        layers=LAYERS,
        rule="dsmoe",
        domain="alpha",
        model="good",
        architecture="qwen3_moe",
        num_layers=3,
        top_k=2,
        report=DiscoveryReport(1, 16, 8, 0.5, 0, 0),
    ).save(folder / "good.safetensors")
    steering("good.json")(folder)
    adapted = get_peft_model(random_model("qwen3_moe"), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(folder / "adapter")
    for _, make, _, _ in CASES:
        make(folder)
    return folder


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def command(case: tuple[str, ...], files: Path) -> list[str]:
    """The good command with the case's arguments over its own."""
    verb, *rest = case if case[0] in ("discover", "evaluate", "export", "plan") else ("compare", *case)
    changed = {argument.partition("=")[0] for argument in rest}
    kept = [argument for argument in GOOD if argument.partition("=")[0] not in changed]
    return [verb, *(argument.format(files=files) if "{files}" in argument else argument for argument in [*kept, *rest])]


@pytest.mark.parametrize(
    "more",
    [
        (),
        own_steering("good.json"),
        own_profile("good.safetensors"),
        on("discovery.profile", "good.safetensors", "methods=[base,esft]", "discovery=risk_difference"),
        own_adapter("adapter"),
    ],
    ids=["model and records", "steering", "profile", "a profile's counts", "adapter"],
)
def test_the_good_files_are_accepted(more: tuple[str, ...], files: Path) -> None:
    _, *overrides = command(more or ("seed=1",), files)
    (one,) = compose_cells(overrides)
    assert Cell(one.config).inputs.domains == ("alpha", "beta", "gamma")


def test_there_are_forty_kinds() -> None:
    names = [name for name, *_ in CASES]
    assert len(set(names)) == len(names) >= 40


def test_nothing_else_is_said_in_a_process_of_its_own(files: Path, tmp_path: Path) -> None:
    arguments = command(own_model("w2"), files)  # transformers would print a report of its own
    done = subprocess.run(
        [sys.executable, "-m", "dsmoe", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"dsmoe: model.path: {files}/w2 has weights of another shape")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("case", "fragments"), [case[2:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_input_is_refused_in_one_line(
    case: tuple[str, ...],
    fragments: tuple[str, ...],
    files: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = listing(files)
    arguments = command(case, files)
    if not any(argument.startswith("paths.results") for argument in arguments):
        arguments.append(f"paths.results={tmp_path}/results")
    status = main(arguments)
    out, err = capfd.readouterr()
    first, *details = err.splitlines()
    assert status == 2
    assert out == ""
    assert first.startswith("dsmoe: ")
    assert all(line.startswith("  ") for line in details)
    assert [fragment for fragment in fragments if fragment not in err] == []
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []
    assert listing(files) == before


CLOSED: list[tuple[tuple[str, ...], str]] = [
    (("plan", "paths.results={files}/closed"), "closed/"),
    (("compare", "paths.results={files}/closed"), "closed/"),
    (("status", "paths.results={files}/closed"), "closed/"),
    (("report", "paths.results={files}/closed"), "closed/"),
    (("export", DISCOVERS, "paths.export={files}/closed/x"), "closed/x"),
    (("compare", *own_adapter("closed")), "closed/adapter_config.json"),
    (("compare", *own_model("closed/x")), "closed/x"),
    (("compare", *own_model("closed")), "closed"),
    (("compare", *own_model("hidden")), "hidden/model.safetensors: permission denied"),
    (("compare", *own_adapter("covered")), "covered/adapter_model.safetensors: permission denied"),
    (("compare", *own_data("hidden.jsonl")), "hidden.jsonl"),
    (("compare", *own_steering("hidden.jsonl")), "hidden.jsonl"),
    (("compare", *own_profile("hidden.jsonl")), "hidden.jsonl"),
    (("compare", f"paths.results={'x' * 300}"), "file name too long"),
    (("status", f"paths.results={'x' * 300}"), "file name too long"),
    (("compare", f"dataset.path={'x' * 300}.jsonl"), "file name too long"),
    (("compare", f"model.path=./{'x' * 300}"), "file name too long"),
]
ONE_BY_ONE = """
import contextlib, io, json, sys
from dsmoe.cli import main

for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(said):
        try:
            status = main(arguments)
        except BaseException as error:
            status = repr(error)
    print(json.dumps([status, said.getvalue()]))
"""


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may look anywhere")
def test_a_place_that_cannot_be_reached_is_one_line(files: Path, tmp_path: Path) -> None:
    (files / "closed").mkdir(mode=0)
    checkpoint("hidden", lambda folder: (folder / "model.safetensors").chmod(0))(files)
    adapter("covered", json.dumps(ADAPTER), b"")(files)
    (files / "covered" / "adapter_model.safetensors").chmod(0)
    (files / "hidden.jsonl").touch(mode=0)
    commands = []
    for (verb, *case), _ in CLOSED:
        changed = {argument.partition("=")[0] for argument in case}
        kept = [argument for argument in GOOD if argument.partition("=")[0] not in changed]
        own = verb in ("status", "report", "publish")
        commands.append([verb, *(argument.format(files=files) for argument in [*(() if own else kept), *case])])
    powers = "-dac_override,-dac_read_search"
    dropped = ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*dropped, sys.executable, "-c", ONE_BY_ONE, json.dumps(commands)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for command, (_, fragment), line in zip(commands, CLOSED, done.stdout.splitlines(), strict=True):
        status, said = json.loads(line)
        assert (status, said.count("\n")) == (2, 1), (command, status, said)
        assert said.startswith("dsmoe: ")
        assert fragment in said, (command, said)
    assert os.listdir(tmp_path) == []
