"""What a second process finds out about models, while this one composes, imports the rest and reads data.

How much a model needs and how it routes is asked of transformers' own code of it, and importing that takes longer than
to name a thousand cells. What the second process does not know in the end, this one finds out itself.
"""

import gc
import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from subprocess import PIPE
from typing import TYPE_CHECKING

from dsmoe.errors import InputError
from dsmoe.usage import processors

if TYPE_CHECKING:
    from dsmoe.config import Config

IMPORTED = "transformers.modeling_utils"
"""Where this is imported there is nothing to be won, nor on one processor."""


@dataclass(frozen=True)
class Aside:
    """The second process; None where there is none."""

    process: subprocess.Popen[bytes] | None

    def ask(self, configs: "Sequence[Config]") -> None:
        """Say whose models it is about."""
        if self.process is None:
            return
        alike = {(config.model, config.benchmark, config.methods): config for config in configs}
        assert self.process.stdin is not None
        with suppress(BrokenPipeError), self.process.stdin as questions:
            pickle.dump(list(alike.values()), questions)

    def learn(self) -> None:
        """Wait for what it finds, after which `needs` and `router_shape` know it here."""
        if self.process is None:
            return
        assert self.process.stdout is not None
        with suppress(EOFError, pickle.UnpicklingError):  # It ended early.
            needs, shapes = pickle.load(self.process.stdout)
            from dsmoe.models.load import SHAPES
            from dsmoe.models.needs import NEEDS

            NEEDS.update(needs)
            SHAPES.update(shapes)


@contextmanager
def models_aside() -> Iterator[Aside]:
    """Begin a second process, which imports and waits to be asked; it ends with the context, done or not."""
    if IMPORTED in sys.modules or processors() == 1:
        yield Aside(None)
        return
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield Aside(process)
        finally:
            process.kill()


def main() -> None:
    """The second process: configs on standard input, what is known of their models on standard output."""
    gc.disable()
    with ThreadPoolExecutor() as reader:  # A long question would fill the pipe, and its asker wait for the imports.
        asked = reader.submit(sys.stdin.buffer.read)
        from dsmoe.methods import discovers
        from dsmoe.models.load import SHAPES, router_shape
        from dsmoe.models.needs import NEEDS, needs

        importlib.import_module(IMPORTED)
        configs = pickle.loads(asked.result())
    with redirect_stdout(sys.stderr):  # The pipe is for the answers alone.
        for config in configs:
            with suppress(InputError):  # What is wrong comes up in the first process too.
                needs(config, discovers(config))
                router_shape(config.model)
    pickle.dump((dict(NEEDS), dict(SHAPES)), sys.stdout.buffer)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
