"""The verbs, and the help on them, made from the schema and the files of `conf/` without importing Hydra."""

import ast
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dsmoe import config
from dsmoe.config import choices, config_root


@dataclass(frozen=True)
class Verb:
    """What a verb does, its own defaults as overrides, and the function that does it, as `module:function`.

    `flags` are those that it takes beside overrides; the function gets each as a keyword. A verb that is `brief` reads,
    says and ends. `aside` is a context, as `module:function`, that is entered before the configs are composed; the
    function gets its value by that name. A verb that is `foreign` is another program's command line: its arguments and
    its help are left to that.
    """

    help: str
    example: str
    run: str
    overrides: tuple[str, ...] = ()
    sweeps: bool = False
    flags: tuple[str, ...] = ()
    brief: bool = False
    aside: str = ""
    foreign: bool = False


VERBS = {
    "compare": Verb(
        "the main job: discover, steer, fine-tune, evaluate every method, write results and the table; -m sweeps",
        "dsmoe compare domain=chemistry steering.strength=4",
        "dsmoe.verbs:compare",
        sweeps=True,
    ),
    "discover": Verb(
        "write an expert profile: every expert's scores for a domain",
        "dsmoe discover domain=biology discovery=frequency",
        "dsmoe.verbs:discover",
        overrides=("methods=[dsmoe]",),
    ),
    "evaluate": Verb(
        "one method on the benchmark",
        "dsmoe evaluate methods=[base] domain=biology",
        "dsmoe.verbs:evaluate",
        overrides=("methods=[base]",),
    ),
    "analyze": Verb(
        "the evidence: do domain-specific experts exist in a model, against two nulls, and why",
        "dsmoe analyze model=planted",
        "dsmoe.analyze:analyze",
        overrides=("methods=[base]",),
    ),
    "calibrate": Verb(
        "how often the instrument is right and wrong: planted truth, false alarms, power; takes many minutes",
        "dsmoe calibrate domain=chemistry",
        "dsmoe.calibrate:calibrate",
        overrides=("model=planted", "steering.strength=auto"),
    ),
    "export": Verb(
        "write a steering for use elsewhere: a folder that dsmoe.load_steered or transformers loads",
        "dsmoe export domain=chemistry steering.strength=4 paths.export=FOLDER",
        "dsmoe.verbs:export",
        overrides=("methods=[dsmoe]",),
    ),
    "lm-eval": Verb(
        "lm-eval's own command line, with a model `dsmoe` that takes a steering",
        "dsmoe lm-eval run --model dsmoe --model_args pretrained=MODEL,steering=FILE --tasks TASK",
        "dsmoe.harness:main",
        foreign=True,
    ),
    "prepare": Verb(
        "download models and data sets, and train the embedded model, before a run: compute nodes are often offline",
        "dsmoe prepare -m model=olmoe,phi_tiny dataset=mmlu_pro domain=math",
        "dsmoe.prepare:prepare",
        sweeps=True,
    ),
    "plan": Verb(
        "what a comparison needs in memory, and which cells are finished; starts, loads and writes nothing; -m sweeps",
        "dsmoe plan model=olmoe cluster=gpu",
        "dsmoe.plan:plan",
        sweeps=True,
        brief=True,
        aside="dsmoe.aside:models_aside",
    ),
    "doctor": Verb(
        "what is wrong with this machine or cluster, and how to mend it; a tiny job is sent where there is Slurm",
        "dsmoe doctor model=olmoe paths.results=FOLDER",
        "dsmoe.doctor.doctor:doctor",
    ),
    "status": Verb(
        "what runs, what is finished, and what failed and why, of a study's Slurm jobs; --watch looks again and again",
        "dsmoe status study=default paths.results=results",
        "dsmoe.launch.status:status",
        sweeps=True,
        flags=("--watch",),
    ),
    "report": Verb(
        "one HTML page, its figures and tables over a study's finished cells; -m takes several studies",
        "dsmoe report study=default paths.results=results",
        "dsmoe.report.report:report",
        sweeps=True,
        brief=True,
    ),
    "publish": Verb(
        "send a study's finished cells and a dashboard to wandb; again sends only what is not there yet; -m: several",
        "dsmoe publish study=default tracking.project=dsmoe",
        "dsmoe.tracking.publish:publish",
        sweeps=True,
    ),
}


def program_help() -> str:
    """What `dsmoe --help` prints."""
    lines = [
        "dsmoe VERB [KEY=VALUE …]",
        "",
        "Do domain-specific experts exist in a Mixture-of-Experts model, and does steering toward them help?",
        "",
        *(f"  {name:<10}{verb.help}" for name, verb in VERBS.items()),
        "",
        "dsmoe VERB --help lists what can be set. Bad input ends with status 2 and one line; nothing is written then.",
    ]
    return "\n".join(lines)


def verb_help(name: str, verb: Verb) -> str:
    """What `dsmoe VERB --help` prints: groups with their choices, then every key with its type, default and meaning."""
    root = config_root()
    defaults = yaml.safe_load((root / "conf" / "config.yaml").read_text(encoding="utf-8"))
    chosen = {
        group: choice
        for entry in defaults.pop("defaults")
        if isinstance(entry, dict)
        for group, choice in entry.items()
    }
    flags = "".join(f" [{flag}]" for flag in (*(("-m",) if verb.sweeps else ()), *verb.flags))
    lines = [
        f"dsmoe {name}{flags} [KEY=VALUE …]",
        "",
        verb.help,
        "",
        f"  {verb.example}",
        "",
        "Groups: GROUP=CHOICE",
    ]
    for group, choice in chosen.items():
        others = [option if option != choice else f"({option})" for option in choices(root / "conf" / group)]
        lines.append(f"  {group:<12}{', '.join(others)}")
        text = (root / "conf" / group / f"{choice}.yaml").read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        defaults = _merged(defaults, content if text.startswith("# @package _global_") else {group: content})
    if verb.sweeps:
        lines.append(f"  hydra/launcher  (basic), {', '.join(choices(root / 'conf' / 'hydra' / 'launcher'))}")
        lines.append(f"  {'+sweeps':<12}{', '.join(choices(root / 'sweeps'))}")
    lines += ["", "Keys: KEY=VALUE (default)"]
    for key, kind, meaning in _fields():
        lines += _entry(key, kind, _value(defaults, key), meaning)
    return "\n".join(lines)


def _entry(key: str, kind: str, default: str, meaning: str) -> list[str]:
    return [
        f"  {key}={default}",
        *textwrap.wrap(f"{meaning} [{kind}]", 112, initial_indent="      ", subsequent_indent="      "),
    ]


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {**below, **above}
    nested = (
        key for key in below.keys() & above.keys() if isinstance(below[key], dict) and isinstance(above[key], dict)
    )
    return both | {key: _merged(below[key], above[key]) for key in nested}


def _value(defaults: Any, key: str) -> str:
    for part in key.split("."):
        defaults = defaults[part]
    if isinstance(defaults, list):
        return f"[{','.join(map(str, defaults))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(defaults), str(defaults))


def _fields() -> Iterator[tuple[str, str, str]]:
    """(key, type, meaning) of every field of the schema: the text under a field is its meaning."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(Path(config.__file__).parent.glob("*.py"))]
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}

    def walk(name: str, prefix: str) -> Iterator[tuple[str, str, str]]:
        body = classes[name].body
        for field, text in zip(body, [*body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign):
                continue
            assert isinstance(field.target, ast.Name)
            kind = ast.unparse(field.annotation)
            nested = kind.removesuffix(" | None")
            if nested in classes:
                yield from walk(nested, f"{prefix}{field.target.id}.")
            else:
                assert isinstance(text, ast.Expr)
                assert isinstance(text.value, ast.Constant)
                yield f"{prefix}{field.target.id}", kind, str(text.value.value)

    return walk("Config", "")
