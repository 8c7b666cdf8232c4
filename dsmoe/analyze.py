"""The evidence: do domain-specific experts exist in a model? One pass over its domains' texts, then what it shows."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from dsmoe.analysis.observe import observe
from dsmoe.analysis.passages import Passage, content_hash, domains_of, from_folder, from_records, limited
from dsmoe.analysis.usage import Usage
from dsmoe.cell import Cell
from dsmoe.compose import Composed
from dsmoe.models.routers import find_routers
from dsmoe.session import Session
from dsmoe.stage import Stage
from dsmoe.verbs import in_process, outputs

ANALYZE = 1


def analyze(composed: Sequence[Composed]) -> int:
    """Observe the model's routing on every domain, write tables and figures, and say what they show."""
    reporter, console = outputs()
    cell = Cell(in_process("analyze", composed).config)
    session, passages = Session(cell, reporter), _passages(cell)
    stage = Stage(
        "analyze",
        ANALYZE,
        {"model": cell.model_key, "passages": content_hash(passages), **asdict(cell.config.analysis)},
    )

    def make(folder: Path) -> None:
        loaded = session.loaded
        routers = find_routers(loaded.model)
        usage = Usage(domains_of(passages), [router.layer for router in routers], routers[0].num_experts)
        with reporter.work("analyze: routing") as advance:
            observe(loaded.model, loaded.tokenizer, passages, [usage], cell.config.discovery.batch_tokens, advance)
        pq.write_table(usage.table(), folder / "usage.parquet")

    folder = stage.run(cell.results, make, reporter.say)
    console.print(f"analysis: {folder}", markup=False, soft_wrap=True)
    return 0


def _passages(cell: Cell) -> list[Passage]:
    """The user's own texts, or the data set's prompts without those of the test split."""
    wanted = cell.config.analysis
    if wanted.texts is not None:
        found = from_folder(Path(wanted.texts))
    else:
        found = from_records([*cell.inputs.splits.discover, *cell.inputs.splits.dev])
    return limited(found, wanted.limit)
