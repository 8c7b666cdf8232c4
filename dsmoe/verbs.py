"""What each verb does with the composed cells."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsmoe.cell import Cell
from dsmoe.compare import run_cell
from dsmoe.compose import Composed
from dsmoe.discovery.profile import ExpertProfile
from dsmoe.errors import InputError
from dsmoe.folders import check_new, write_new
from dsmoe.jobs import launch
from dsmoe.methods import Trial, steers
from dsmoe.models.fit import check_nodes
from dsmoe.progress import Reporter, plain_warnings
from dsmoe.report.seeds import by_seed, seeds_table
from dsmoe.report.table import rich_table
from dsmoe.report.varied import varied
from dsmoe.results import Results
from dsmoe.session import Session
from dsmoe.steering.export import BAKED, write_export
from dsmoe.steering.steering import Steering

BEST = 10


def compare(composed: Sequence[Composed]) -> int:
    """Run every cell, one after the other, and show its table, or launch them as jobs. All are checked before."""
    reporter, console = outputs()

    def show(folder: Path) -> None:
        console.print(rich_table(Results.read(folder / "results.json")))
        console.print(f"results: {folder / 'results.json'}", markup=False, soft_wrap=True)

    if composed[0].launcher is not None:
        return launch(composed, reporter, show)
    cells = [Cell(one.config) for one in composed]
    for cell in cells:
        check_nodes(cell.config.cluster)
    sweep = varied([cell.content for cell in cells])
    for number, (one, cell) in enumerate(zip(composed, cells, strict=True), start=1):
        if len(cells) > 1:
            reporter.say(f"cell {number} of {len(cells)}: {' '.join(one.overrides)}")
        run_cell(cell, reporter, sweep)
        show(cell.folder)
    for alike in by_seed([Results.read(cell.folder / "results.json") for cell in cells]):
        console.print(seeds_table(alike))
    return 0


def evaluate(composed: Sequence[Composed]) -> int:
    """Ask one method the benchmark's questions."""
    for one in composed:
        if len(one.config.methods) != 1:
            raise InputError(f"methods: evaluate takes one method, not {', '.join(one.config.methods)}; see compare")
    return compare(composed)


def discover(composed: Sequence[Composed]) -> int:
    """Write the target domain's expert profile and show the experts that would be steered first."""
    reporter, console = outputs()
    one = in_process("discover", composed)
    cell = Cell(one.config)
    recipe = cell.inputs.recipe("dsmoe")
    assert recipe is not None
    path = Session(cell, reporter).profile_path(recipe)
    profile = ExpertProfile.load(path)
    report = profile.report
    table = Table(title=Text(f"experts for {profile.domain} by rule {profile.rule}"), title_justify="left")
    for column in ("layer", "expert", "score", "important", "unimportant"):
        table.add_column(column, justify="right")
    best = Steering.from_profile(profile, min(BEST, profile.scores.numel()), 0.0)
    rows = [(profile.layers.index(layer), layer, expert) for layer, chosen in best.experts.items() for expert in chosen]
    for row, layer, expert in sorted(rows, key=lambda at: -float(profile.scores[at[0], at[2]])):
        counts = (profile.counts.important[row, expert], profile.counts.unimportant[row, expert])
        table.add_row(
            str(layer), str(expert), f"{float(profile.scores[row, expert]):.5f}", *(str(int(c)) for c in counts)
        )
    console.print(table)
    console.print(
        f"{report.tokens} tokens of {report.records} records, {report.important_share:.0%} important; "
        f"{report.tokens_near_threshold} tokens near the threshold, {report.choices_near_tie} choices near a tie"
    )
    console.print(f"profile: {path}", markup=False, soft_wrap=True)
    return 0


def export(composed: Sequence[Composed]) -> int:
    """Write what one method steers into a folder of its own, for use elsewhere."""
    reporter, console = outputs()
    one = in_process("export", composed)
    key, config = "paths.export", one.config
    if len(config.methods) != 1 or not steers(config.methods[0]):
        raise InputError(f"methods: export takes one that steers, such as dsmoe, not {', '.join(config.methods)}")
    if config.paths.export is None:
        raise InputError(f"{key}: export wants a new folder; add {key}=FOLDER")
    folder = Path(config.paths.export).resolve()
    check_new(folder, key)
    session = Session(Cell(config), reporter)
    steering = session.steering(Trial(config.methods[0]))
    assert steering is not None
    model = config.model
    if model.pretrain is not None:
        model = replace(model, path=str(session.pretrained()), pretrain=None)
    write_new(folder, lambda temporary: write_export(temporary, steering, model), key)
    form = "a steered checkpoint" if (folder / BAKED).exists() else "a steering and its base, for dsmoe.load_steered"
    console.print(f"export: {folder}: {form}", markup=False, soft_wrap=True)
    return 0


def in_process(verb: str, composed: Sequence[Composed]) -> Composed:
    """The one config of a verb that no launcher runs. Raises InputError where one is chosen."""
    (one,) = composed
    if one.launcher is not None:
        raise InputError(f"hydra/launcher: {verb} runs here; leave out {one.launcher.name}, or launch with compare")
    return one


def outputs() -> tuple[Reporter, Console]:
    """Progress on standard error, results on standard output; warnings of ours as plain lines."""
    plain_warnings()
    reporter = Reporter()
    width = None if sys.stdout.isatty() else 120
    return reporter, Console(highlight=False, soft_wrap=False, width=width)
