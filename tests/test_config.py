"""Configs: every shipped file composes, help names everything, and what is wrong is said in one line."""

import dataclasses
import re
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from dsmoe import InputError
from dsmoe.compose import compose_cells
from dsmoe.config import Config, ModelConfig, PretrainConfig, config_root
from dsmoe.config.validation import FREE, checked, known_keys
from dsmoe.help import VERBS, verb_help

ROOT = config_root()
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra")
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((ROOT / "conf" / group).glob("*.yaml"))]
SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))


def compose(*overrides: str, multirun: bool = False) -> list[Config]:
    return [cell.config for cell in compose_cells(overrides, multirun)]


def refusal(*overrides: str, multirun: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        compose_cells(overrides, multirun)
    message = str(caught.value)
    assert "\n" not in message
    return message


def content_of(path: Path) -> dict[str, Any]:
    """What a file of conf/ sets, from the root of the config."""
    text = path.read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    at_root = path.parent.name == "conf" or text.startswith("# @package _global_")
    return content if at_root else {path.parent.name: content}


def test_there_is_something_to_compose() -> None:
    assert {"model", "dataset", "benchmark", "discovery", "steering", "sft"} <= set(GROUPS)
    assert len(CHOICES) >= 15
    assert len(SWEEPS) >= 4


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes(group: str, choice: str) -> None:
    written = content_of(ROOT / "conf" / group / f"{choice}.yaml")[group]
    content: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(written), resolve=True)  # type: ignore[assignment]
    needed = [f"{group}.{key}=given" for key, value in content.items() if value == "???"]
    (config,) = compose(f"{group}={choice}", *needed)
    for key, value in content.items():
        if not isinstance(value, dict):
            found = getattr(getattr(config, group), key)
            assert (list(found) if isinstance(found, tuple) else found) == ("given" if value == "???" else value)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_sweep_composes_in_its_order(sweep: str) -> None:
    content = yaml.safe_load((ROOT / "sweeps" / f"{sweep}.yaml").read_text(encoding="utf-8"))
    params = content["hydra"]["sweeper"]["params"]
    cells = compose_cells([f"+sweeps={sweep}"])
    choices = product(*([f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()))
    assert [cell.overrides[1:] for cell in cells] == list(choices)
    assert len({cell.config for cell in cells}) == len(cells) > 1


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_sweep_says_its_command(sweep: str) -> None:
    text = (ROOT / "sweeps" / f"{sweep}.yaml").read_text(encoding="utf-8")
    (command,) = re.findall(r"^# .*(dsmoe compare \+sweeps=.*)$", text, re.MULTILINE)
    assert {cell.config.domain for cell in compose_cells(command.split()[2:])} != set()
    assert f"+sweeps={sweep}" in command.split()


@pytest.mark.parametrize(
    "overrides",
    [
        ["steering.strength=3", "model=olmoe", "domain='a b'", "methods=[base,sft]"],
        ["dataset.splits={discover:0.2,dev:0.1,test:0.7}", "discovery.stop_words=[a,b]", "sft.rank=2"],
        ["+cluster.environment.A=1", "cluster.setup=['echo ${oc.env:NONE,x}']", "model.threads=null"],
        ["steering.strength=0.5", "dataset=mmlu_pro", "benchmark=mmlu_pro", "dataset.path=./x y"],
        ["dataset=records", "dataset.path=a\\\\b", "seed=1", "seed=2"],
    ],
)
def test_cells_are_composed_as_hydra_composes_them(overrides: list[str]) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        composed = hydra_compose("config", [*overrides, f"hydra.searchpath=[file://{ROOT}]"])
    content = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(content, dict)
    both = compose_cells([*overrides, "study=one,two"], multirun=True)
    assert [cell.config for cell in both] == [checked({**content, "study": study}) for study in ("one", "two")]


@pytest.mark.parametrize(
    "path",
    sorted(path for path in (ROOT / "conf").rglob("*.yaml") if "hydra" not in path.parts),
    ids=lambda path: path.stem,
)
def test_no_file_sets_a_key_that_is_none(path: Path) -> None:
    def keys(node: dict[str, object], above: str) -> Iterator[str]:
        for key, value in node.items():
            yield f"{above}{key}"
            if isinstance(value, dict):
                yield from keys(value, f"{above}{key}.")

    own = {key for key in keys(content_of(path), "") if key.startswith(FREE)}
    assert set(keys(content_of(path), "")) - own - {"defaults"} <= set(known_keys())


def leaves(schema: type, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(schema):
        held = PretrainConfig if schema is ModelConfig and field.name == "pretrain" else field.type
        if isinstance(held, type) and dataclasses.is_dataclass(held):
            yield from leaves(held, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def test_help_names_every_key_with_its_meaning_and_every_choice() -> None:
    text = verb_help("compare", VERBS["compare"])
    keys = list(leaves(Config))
    assert "steering.strength" in keys
    assert "model.pretrain.top_k" in keys
    said = dict(re.findall(r"^  (\S+)=.*\n      (\S.*)", text, re.MULTILINE))
    assert list(said) == keys
    assert all(re.match(r"[A-Za-z]\w*.* ", meaning) for meaning in said.values())
    for group in GROUPS:
        (line,) = re.findall(rf"^  {group} +(.*)", text, re.MULTILINE)
        assert re.sub("[()]", "", line).split(", ") == [choice for name, choice in CHOICES if name == group]
    assert re.search(rf"^  \+sweeps +{', '.join(SWEEPS)}$", text, re.MULTILINE)
    assert "+sweeps" not in verb_help("discover", VERBS["discover"])


def test_help_shows_the_defaults() -> None:
    text = verb_help("compare", VERBS["compare"])
    (config,) = compose()
    for key in ("steering.strength", "dataset.splits.test", "benchmark.metric", "discovery.rule", "domain", "seed"):
        value: object = config
        for part in key.split("."):
            value = getattr(value, part)
        assert f"\n  {key}={value}\n" in text


def test_composing_twice_gives_equal_frozen_configs() -> None:
    assert compose("domain=biology") == compose("domain=biology")
    (config,) = compose()
    assert dataclasses.replace(config, domain="biology") in compose("domain=biology")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.domain = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("steering.strengh=4", ["steering.strengh", "no key", "did you mean steering.strength?"]),
        ("+steering.strengh=4", ["steering.strengh", "no key", "did you mean steering.strength?"]),
        ("strength=4", ["strength", "no key", "steering.strength"]),
        ("modle=tiny", ["modle", "no key", "did you mean model?"]),
        ("model.pretrain.stepz=1", ["model.pretrain.stepz", "no key", "did you mean model.pretrain.steps?"]),
        ("dataset.splits={discover:0.1,dev:0.2,test:0.7,train:1}", ["dataset.splits.train", "no key"]),
        ("model=tinny", ["model: 'tinny'", "checkpoint, ", "did you mean tiny?"]),
        ("discovery=dsmo", ["discovery: 'dsmo'", "dsmoe_code", "did you mean dsmoe?"]),
        ("steering=3", ["steering: 3", "is not one of force, gate, logit, score"]),
        ("steering=null", ["steering: null", "is not one of force, gate, logit, score"]),
        ("+sweeps=strenght", ["sweeps: 'strenght'", "num_experts", "did you mean strength?"]),
        ("sweeps=strength", ["sweeps", "+sweeps="]),
        ("model.dtype=bfloat", ["model.dtype: 'bfloat'", "'float32'", "'float16'", "did you mean bfloat16?"]),
        ("methods=base", ["methods: 'base'", "a list"]),
        ("methods=[]", ["methods: []", "a list of one at least"]),
        ("methods=[sft,sft]", ["methods", "named twice", "sft"]),
        ("methods=[steering]", ["methods", "steering.file=FILE"]),
        ("steering.strength=strong", ["steering.strength: 'strong'", "a number"]),
        ("steering.strength=-1", ["steering.strength: -1", "greater than -1"]),
        ("steering.strength=inf", ["steering.strength: inf", "finite"]),
        ("steering.strength=nan", ["steering.strength: nan", "finite"]),
        ("steering.strength=null", ["steering.strength: null", "a number"]),
        ("steering.strength=true", ["steering.strength: true", "a number"]),
        ("steering.num_experts=0", ["steering.num_experts: 0", "greater than 0"]),
        ("steering.num_experts=1.5", ["steering.num_experts: 1.5", "a whole number or less than 1"]),
        ("steering.layers=[3,1]", ["steering", "[3, 1] is no window [first,last]"]),
        ("steering.layers=[-1,1]", ["steering", "[-1, 1] is no window [first,last]"]),
        ("steering.layers=[1]", ["steering.layers"]),
        ("discovery.quantile=1", ["discovery.quantile: 1", "less than 1"]),
        ("+discovery.markers.so=nan", ["discovery.markers: nan", "finite"]),
        ("+discovery.markers.so=inf", ["discovery.markers: inf", "finite"]),
        ("+discovery.markers.so=-inf", ["discovery.markers: -inf", "finite"]),
        ("discovery.stop_words=[a,1]", ["discovery.stop_words", "text"]),
        ("dataset.splits.test=0.5", ["dataset.splits", "discover + dev + test is 0.8, not 1"]),
        ("benchmark.limit=0", ["benchmark.limit: 0", "greater than 0"]),
        ("benchmark.batch_size=1.5", ["benchmark.batch_size: 1.5", "a whole number"]),
        ("domain=", ["domain: ''", "text, not empty"]),
        ("domain=7", ["domain: 7", "text"]),
        ("domain=${nowhere}", ["domain", "nowhere"]),
        ("model.trust_remote_code=perhaps", ["model.trust_remote_code: 'perhaps'", "true or false"]),
        ("model.path=/somewhere", ["model", "path and pretrain", "exactly one"]),
        ("model=checkpoint", ["model.path", "wants a value"]),
        ("model.pretrain=5", ["model.pretrain: 5", "a group of keys"]),
        ("model.pretrain.top_k=17", ["model.pretrain", "top_k is 17", "16 experts"]),
        ("sft.learning_rate=inf", ["sft.learning_rate: inf", "finite"]),
        ("seed=-1", ["seed: -1", "greater than or equal to 0"]),
        ("seed=4294967296", ["seed: 4294967296", "less than 4294967296"]),
        ("study=../out", ["study: '../out'", "plain name"]),
        ("study=stages", ["study: 'stages'"]),
        (f"study={'a' * 101}", ["study", "at most 100"]),
        ("~steering.strength", ["steering.strength", "missing"]),
        ("~nothing", ["nothing", "does not exist"]),
        ("domain", ["'domain'", "KEY=VALUE"]),
        ("domain=[a", ["'domain=[a'", "KEY=VALUE"]),
        ("=3", ["'=3'", "KEY=VALUE"]),
        ("", ["''", "KEY=VALUE"]),
        ("hydra.mode=FAST", ["hydra.mode", "'FAST'", "MULTIRUN"]),
        ("domain=biology,chemistry", ["domain=biology,chemistry", "add -m"]),
        ("model=tiny,olmoe", ["model=tiny,olmoe", "add -m"]),
    ],
)
def test_what_is_wrong_is_one_line(override: str, fragments: list[str]) -> None:
    message = refusal(override)
    assert [fragment for fragment in fragments if fragment not in message] == []


def test_sweep_order_is_that_of_the_command_line() -> None:
    cells = compose("steering.strength=1,2", "domain=biology,chemistry", multirun=True)
    assert [(cell.steering.strength, cell.domain) for cell in cells] == [
        (1, "biology"),
        (1, "chemistry"),
        (2, "biology"),
        (2, "chemistry"),
    ]
    cells = compose("discovery=glob(*)", multirun=True)
    assert [cell.discovery.rule for cell in cells] == [choice for group, choice in CHOICES if group == "discovery"]


def test_a_key_takes_the_value_that_another_has_in_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sweep as alone: cells are not composed by Hydra one by one."""
    for folder in ("conf", "sweeps"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    text = "# @package _global_\nstudy: of-${domain}\nseed: ${model.pretrain.seed}\n"
    (tmp_path / "sweeps" / "mine.yaml").write_text(text)
    monkeypatch.setattr("dsmoe.compose.config_root", lambda: tmp_path)
    mine = ("+sweeps=mine", "model.pretrain.seed=3")
    alone = [compose(*mine, f"domain={domain}")[0] for domain in ("biology", "languages")]
    assert [(config.study, config.seed) for config in alone] == [("of-biology", 3), ("of-languages", 3)]
    assert compose(*mine, "domain=biology,languages", multirun=True) == alone


def test_the_command_line_beats_a_sweep_file() -> None:
    (one,) = compose("+sweeps=strength", "steering.strength=3")
    assert one.steering.strength == 3
    cells = compose("+sweeps=strength", "steering.strength=3,5", "domain=biology", multirun=True)
    assert [(cell.steering.strength, cell.domain) for cell in cells] == [(3, "biology"), (5, "biology")]


def test_one_bad_cell_refuses_the_sweep() -> None:
    assert "steering.strength: 'x'" in refusal("steering.strength=1,x", multirun=True)
    assert "steering: 1" in refusal("steering=1,logit", multirun=True)
    assert "no values" in refusal("domain=glob(*)", multirun=True)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("gpus: 1\n\tcpus: 2\n", "mine.yaml:2: is not YAML that can be read: found character '\\t'"),
        ("gpus: 1\ncpus: 1\n\ngpus: 2\n", "mine.yaml:4: is not YAML that can be read: found duplicate key gpus"),
        ("gpus: [1\ncpus: 2\n", "mine.yaml:2: is not YAML that can be read: expected ',' or ']'"),
        ("gpus: 1\npartition: \0\n", "mine.yaml:2: is not YAML that can be read: special characters"),
        ("gpus: 1\npartition: café\n", "mine.yaml:2: is not UTF-8"),
        ("gpus: *none\n", "mine.yaml:1: is not YAML that can be read: found undefined alias"),
        ("- gpus\n", "Cannot merge DictConfig with ListConfig"),
        ("partition: ${\n", "partition: no viable alternative"),
        ("null: 1\n", "Incompatible key type"),
    ],
)
def test_a_broken_file_of_ones_own_is_one_line(
    content: str, fragment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("conf", "sweeps"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.setattr("dsmoe.compose.config_root", lambda: tmp_path)
    (tmp_path / "conf" / "cluster" / "mine.yaml").write_text(content, encoding="latin-1")
    assert fragment in refusal("cluster=mine")
    assert fragment in refusal("cluster=local,mine", multirun=True)


def test_values_that_only_look_wrong() -> None:
    (config,) = compose("steering.strength=4", "steering.num_experts=3", "dataset.path='a,b=c.jsonl'", "study=v1.0-a_b")
    assert (config.steering.strength, config.steering.num_experts) == (4.0, 3)
    assert config.dataset.path == "a,b=c.jsonl"
    assert compose("steering.num_experts=0.5")[0].steering.num_experts == 0.5
    assert compose("steering.strength=-0.5")[0].steering.strength == -0.5
