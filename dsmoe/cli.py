"""The command line: `dsmoe VERB [Hydra overrides]`.

Nothing heavy is imported before a verb runs, so that help is at hand at once.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from dsmoe.disk import CLOSED
from dsmoe.errors import InputError, SteeringError
from dsmoe.help import VERBS, program_help, verb_help
from dsmoe.plugins import did_you_mean

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


def program() -> int:
    """The command itself: `main` on the arguments of this process, which ends with it."""
    status = main()
    gc.freeze()  # Python would look once more for garbage in all that was made and imported: about a second.
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for bad input, 130 for Ctrl-C.

    It is 1 where steering fails its proof, or where doctor finds trouble.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(given)
        print(end="", flush=True)  # A reader that has gone away is noticed here, not when Python shuts down.
        return status
    except InputError as error:
        print(f"dsmoe: {error}", file=sys.stderr)
        return BAD_INPUT
    except SteeringError as error:
        print(f"dsmoe: steering is refused: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        # A place that the user named and that cannot be reached, whoever was the first to look there.
        if error.errno not in CLOSED or error.filename is None:
            raise
        print(f"dsmoe: {error.filename}: {os.strerror(error.errno).lower()}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("dsmoe: interrupted; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED


def _run(given: list[str]) -> int:
    flags = {argument for argument in given if argument.startswith("-")}
    words = [argument for argument in given if argument not in flags]
    if not words or (not flags.isdisjoint({"-h", "--help"}) and words[0] not in VERBS):
        if unknown := sorted(flags - {"-h", "--help"}):
            raise InputError(f"{unknown[0]}: dsmoe takes a verb ({', '.join(VERBS)}) or --help")
        print(program_help())
        return 0
    name, *overrides = words
    if name not in VERBS:
        raise InputError(f"{name!r} is not one of the verbs {', '.join(VERBS)}{did_you_mean(name, list(VERBS))}")
    verb = VERBS[name]
    if verb.foreign:
        given.remove(name)
        return _function(verb.run)(given)
    if not flags.isdisjoint({"-h", "--help"}):
        print(verb_help(name, verb))
        return 0
    sweeping = {"-m", "--multirun"} if verb.sweeps else set()
    allowed = {*sweeping, *verb.flags}
    if unknown := sorted(flags - allowed):
        raise InputError(
            f"{unknown[0]}: {name} takes {' or '.join(['--help', *sorted(allowed)])} and overrides KEY=VALUE"
        )
    _quiet()
    named: dict[str, Any] = {flag.removeprefix("--"): True for flag in verb.flags if flag in flags}
    with ExitStack() as around:
        if verb.brief:
            around.enter_context(_garbage_kept())
        if verb.aside:
            named["aside"] = around.enter_context(_function(verb.aside)())
        from dsmoe.compose import compose_cells

        cells = compose_cells([*verb.overrides, *overrides], multirun=bool(flags & sweeping))
        if len(cells) > 1 and not verb.sweeps:
            raise InputError(f"{name} runs one config, not a sweep of {len(cells)}; compare sweeps")
        status: int = _function(verb.run)(cells, **named)
        return status


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Look for no garbage: imports and a thousand configs make hardly any, and the search takes a sixth of the time."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def _function(path: str) -> Callable[..., Any]:
    import importlib

    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _quiet() -> None:
    """Progress is ours to show; the libraries' own bars would fill a log."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
