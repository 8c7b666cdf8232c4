"""The verb `plan`: what a run would need and which of its cells are finished, said before anything is started."""

import logging
from collections.abc import Sequence

from rich.console import Console

from dsmoe.aside import Aside
from dsmoe.compose import Composed


def plan(composed: Sequence[Composed], aside: Aside) -> int:
    """Print what every model of the cells needs, and which cells are finished. Runs, writes and loads nothing.

    Raises InputError where a model cannot fit, before anything is printed.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    aside.ask([one.config for one in composed])
    from dsmoe.prospect import prospect, read_ahead

    read_ahead(composed)
    aside.learn()
    lines = prospect(composed)
    Console(highlight=False, soft_wrap=True).print("\n".join(lines), markup=False)
    return 0
