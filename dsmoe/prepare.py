"""What a run needs from elsewhere, had before it: models, data sets and the embedded model, on a login node say."""

from collections.abc import Sequence

from rich.console import Console

from dsmoe import plugins
from dsmoe.cell import Cell
from dsmoe.compose import Composed
from dsmoe.models.checkpoint import files
from dsmoe.parts import TASKS, load_records
from dsmoe.progress import Reporter
from dsmoe.session import Session


def prepare(composed: Sequence[Composed]) -> int:
    """Download the models and the data sets of all cells, and train the embedded model; what is here stays.

    Nothing is loaded onto a device. Raises InputError for what cannot be had.
    """
    console = Console(highlight=False, soft_wrap=True)
    wanted = ((one.config.dataset, one.config.questions, one.config.benchmark.task) for one in composed)
    for data, questions, task in dict.fromkeys(wanted):
        for origin in dict.fromkeys((data, questions)):
            console.print(f"data set {origin.source}: {len(load_records(origin))} questions are here", markup=False)
        examples = getattr(plugins.load(TASKS, task, "benchmark.task"), "examples", None)
        if examples is not None:
            console.print(f"task {task}: {len(examples(questions))} examples are here", markup=False)
    for one in {one.config.model: one for one in composed}.values():
        model = one.config.model
        folder = Session(Cell(one.config), Reporter()).pretrained() if model.pretrain else files(model)
        console.print(f"model {model.name}: {folder}", markup=False)
    return 0
