"""lm-eval's own command line, with a model `dsmoe` beside its others: transformers' models, steered.

Nothing is done to lm-eval's arguments, but what would go wrong for that model is refused before it starts.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dsmoe.errors import InputError

if TYPE_CHECKING:
    from dsmoe.steering.steering import Steering

MODEL = "dsmoe"
NO_CACHE = (
    "--use_cache: lm-eval's cache of answers does not know the steering, and would give one strength's answers to all; "
    f"leave it out for model {MODEL}"
)


@dataclass(frozen=True)
class Source:
    """What --model_args name: what lm-eval loads, with which settings, and the steering of it."""

    pretrained: Any
    steering: "Steering | None" = None
    settings: dict[str, Any] = field(default_factory=dict)


def main(arguments: Sequence[str]) -> int:
    """Run lm-eval with these arguments; its exit status. Raises InputError for what model `dsmoe` cannot do."""
    import lm_eval.models  # noqa: F401 (lm-eval registers its own models only where none is registered before)
    from lm_eval._cli import HarnessCLI
    from lm_eval.api.registry import model_registry
    from lm_eval.utils import setup_logging

    if MODEL not in model_registry:
        model_registry.register(MODEL, target="dsmoe.steered_lm:SteeredLM")
    own, sys.argv = sys.argv, ["lm-eval", *arguments]
    try:
        setup_logging()
        command_line = HarnessCLI()
        parsed = command_line.parse_args()
        _check(parsed)
        command_line.execute(parsed)
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        sys.argv = own
    return 0


def source_of(pretrained: Any = None, steering: Any = None, **settings: Any) -> Source:
    """Where model `dsmoe` comes from: a checkpoint, steered or not, or an export.

    Of an export all is known, so that its own settings stand where none are given. Raises InputError for a steering
    file or an export that cannot be read, or both together.
    """
    from dsmoe.steering.export import Export, is_export
    from dsmoe.steering.steering import Steering

    if pretrained is None:
        raise InputError(f"--model_args: model {MODEL} wants pretrained=FOLDER or a Hub id")
    own = None if steering is None else Steering.load(str(steering))
    if not isinstance(pretrained, str) or not is_export(pretrained):
        return Source(pretrained, own, settings)
    if own is not None:
        raise InputError(f"--model_args: {pretrained} is an export and steered already; leave out steering={steering}")
    export = Export.load(pretrained)
    export.check_trust(bool(settings.get("trust_remote_code")))
    settings = {"dtype": export.base.dtype, **settings}
    if export.revision is not None:
        settings["revision"] = export.revision
    return Source(export.checkpoint, None if export.is_baked else export.steering, settings)


def _check(parsed: Namespace) -> None:
    """Refuse what cannot be run before a line is logged, a file written or a weight loaded."""
    from lm_eval.config.evaluate_config import EvaluatorConfig
    from lm_eval.utils import simple_parse_args_string

    given = {key: value for key, value in vars(parsed).items() if value}
    settings = {**(EvaluatorConfig.load_yaml_config(given["config"]) if "config" in given else {}), **given}
    if settings.get("model") != MODEL:
        return
    if settings.get("use_cache"):
        raise InputError(NO_CACHE)
    model = settings.get("model_args") or {}
    trust = {"trust_remote_code": True} if settings.get("trust_remote_code") else {}
    source_of(**(simple_parse_args_string(model) if isinstance(model, str) else model) | trust)
