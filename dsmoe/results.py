"""Results of a cell: rows, comparisons and provenance, and the file `results.json` that holds them.

The file's format is `results.schema.json` beside this module. Values, differences and their errors are fractions, not
percent, of n questions.
"""

import json
import os
import textwrap
import uuid
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from dsmoe.errors import InputError

if TYPE_CHECKING:
    from jsonschema_rs import Validator

Role = Literal["target", "non_target"]
Verdict = Literal["better", "worse", "no evidence"]
Family = Literal["primary", "secondary"]
HarmVerdict = Literal["non-inferior", "harmed", "undecided"]

SCHEMA_VERSION = 2
CHANCE = "chance"
"""The method of rows that show what guessing gives."""
POOLED_TASK = "non-target"
"""The task of rows over all non-target questions together."""
POOLED_DOMAIN = "all others"
"""The domain of the same rows."""


@dataclass(frozen=True, slots=True)
class RoutingChange:
    """How many choices of steered routers were counted, one a token and layer, and how many of them steering changed.

    A choice is changed if the unsteered router, given the same hidden state, would have chosen another set of experts.
    Padding is routed and counted too.
    """

    choices: int
    changed: int


@dataclass(frozen=True, slots=True)
class Row:
    """What one method reached on one task, or on all non-target questions together.

    `value` is a mean over n questions, each of them over its `samples` answers. `truncated` and `unanswered` are shares
    of generated answers that were cut off, and in which no answer was found; None where nothing is generated.
    """

    method: str
    task: str
    domain: str
    role: Role
    metric: str
    value: float
    stderr: float
    n: int
    strength: float | None = None
    num_experts: int | None = None
    mode: str | None = None
    routing_changed: RoutingChange | None = None
    samples: int = 1
    truncated: float | None = None
    unanswered: float | None = None


@dataclass(frozen=True, slots=True)
class Harm:
    """Whether a loss stays within a margin, by the lower one-sided 95% bound of the paired difference."""

    margin: float
    bound: float
    verdict: HarmVerdict


@dataclass(frozen=True, slots=True)
class Comparison:
    """A method against a baseline on the same n questions; task and domain are None where non-target tasks are pooled.

    `groups` counts the groups of questions that share a source. `gained` counts the questions that the method has right
    more often, `lost` those that the baseline has.
    """

    method: str
    baseline: str
    task: str | None
    domain: str | None
    role: Role
    n: int
    groups: int
    delta: float
    ci_low: float
    ci_high: float
    p_value: float
    p_adjusted: float
    gained: int
    lost: int
    verdict: Verdict
    family: Family
    smallest_visible_effect: float
    harm: Harm | None = None


@dataclass(frozen=True, slots=True)
class Specificity:
    """Where dsmoe stands on the target among draws of as many random experts in each layer: shares answered right."""

    value: float
    draws: tuple[float, ...]
    above: int
    """Draws that dsmoe is above."""


@dataclass(frozen=True, slots=True)
class Results:
    """All that a cell found. `config` and `provenance` are JSON objects of any content.

    `choices` maps a method to what was chosen for it on dev, and the curve that it was chosen from.
    """

    cell: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    specificity: Specificity | None = None
    choices: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all; equal results give equal bytes.

        Raises InputError where the results do not follow the schema, ValueError for NaN and infinity, and OSError;
        what stood at the path then stays.
        """
        text = json.dumps(asdict(self), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        _validate(json.loads(text), path)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with open(temporary, "x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Reads and validates a file. Raises InputError, one line with the path and the first fault."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{path}: not JSON: {error}") from error
        _validate(document, path)
        rows = tuple(_row(**fields) for fields in document.pop("rows"))
        comparisons = tuple(_comparison(**fields) for fields in document.pop("comparisons"))
        specificity = _specificity(document.pop("specificity"))
        return cls(**document, rows=rows, comparisons=comparisons, specificity=specificity)


def _row(routing_changed: dict[str, int] | None, **fields: Any) -> Row:
    return Row(**fields, routing_changed=None if routing_changed is None else RoutingChange(**routing_changed))


def _comparison(harm: dict[str, Any] | None, **fields: Any) -> Comparison:
    return Comparison(**fields, harm=Harm(**harm) if harm is not None else None)


def _specificity(fields: dict[str, Any] | None) -> Specificity | None:
    return None if fields is None else Specificity(fields["value"], tuple(fields["draws"]), fields["above"])


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


@cache
def _validator() -> "Validator":
    # Those who only want the types need neither the library nor the schema.
    from jsonschema_rs import validator_for

    return validator_for(json.loads(Path(__file__).with_name("results.schema.json").read_text(encoding="utf-8")))


def _validate(document: Any, path: Path) -> None:
    fault = next(iter(_validator().iter_errors(document)), None)
    if fault is not None:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.instance_path)
        raise InputError(f"{path}: ${place}: {textwrap.shorten(fault.message, 160)}")
