"""The evidence: do domain-specific experts exist in a model? One pass over its domains' texts, then what it shows."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dsmoe.analysis.against import FILE, SCHEMA, Against, Earlier
from dsmoe.analysis.existence import Existence
from dsmoe.analysis.labels import PermutedLabels
from dsmoe.analysis.load import Direction, Load
from dsmoe.analysis.observe import check_context, observe
from dsmoe.analysis.overlap import Committee, Overlap
from dsmoe.analysis.passages import Passage, content_hash, domains_of, from_folder, from_records, limited
from dsmoe.analysis.random_routers import RandomRouters
from dsmoe.analysis.similarity import Similarity
from dsmoe.analysis.usage import Usage
from dsmoe.analysis.vocabulary import Vocabulary
from dsmoe.cell import Cell
from dsmoe.compare import run_cell
from dsmoe.compose import Composed
from dsmoe.config import Config
from dsmoe.errors import InputError
from dsmoe.models.load import context_length, tokenizer_of
from dsmoe.models.routers import find_routers
from dsmoe.progress import Reporter
from dsmoe.reasons import check_origin, origins, rollouts
from dsmoe.report.analysis import markdown, sentences
from dsmoe.report.figures import draw
from dsmoe.session import Session
from dsmoe.stage import Stage
from dsmoe.tracking.mirror import Mirror, track
from dsmoe.verbs import in_process, outputs

ANALYZE = 1
TEXT = "analysis.md"
STRENGTH = 2.0
"""α = 3, at which the paper steers one expert to ask whether it matters (arXiv 2604.05267)."""
STUDY = 92
"""Letters of a study's name that are kept in that of its causal tests, which are no part of what the study compares."""
ELSEWHERE = ("texts", "limit", "against", "causal")
"""Settings of an analysis that its key has by what they come to."""


def analyze(composed: Sequence[Composed]) -> int:
    """Observe the model's routing on every domain, write tables, and say what they show.

    Raises InputError for texts that cannot be read or compared, and for an analysis of other texts to be held against.
    """
    reporter, console = outputs()
    cell = Cell(in_process("analyze", composed).config)
    check_origin(cell.config)
    wanted = cell.config.analysis
    passages = _passages(cell)
    hash_of_passages = content_hash(passages)
    earlier = Earlier.read(Path(wanted.against), "analysis.against", hash_of_passages) if wanted.against else None
    causal = Cell(_causal(cell.config)) if wanted.causal and wanted.texts is None else None
    stage = Stage(
        "analyze",
        ANALYZE,
        {
            "model": cell.model_key,
            "passages": hash_of_passages,
            "batch_tokens": cell.config.discovery.batch_tokens,
            "seed": cell.config.seed,
            "against": earlier and earlier.hash,
            "causal": causal and causal.id,
            **{key: value for key, value in asdict(wanted).items() if key not in ELSEWHERE},
        },
    )

    def make(folder: Path) -> None:
        found = {
            "schema": SCHEMA,
            "model": cell.config.model.name,
            "passages": hash_of_passages,
            **_evidence(Session(cell, reporter), passages, earlier, folder),
            "causal": causal and _steered(causal, reporter),
        }
        (folder / FILE).write_text(
            json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        (folder / TEXT).write_text(markdown(found), encoding="utf-8")

    folder = stage.run(cell.results, make, reporter.say)
    track(Mirror.of_stage(folder), cell.config.tracking, reporter.say)
    for line in sentences(json.loads((folder / FILE).read_text(encoding="utf-8"))):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"analysis: {folder}", markup=False, soft_wrap=True)
    return 0


def _evidence(session: Session, passages: Sequence[Passage], earlier: Earlier | None, folder: Path) -> dict[str, Any]:
    """Observe the model and write what was seen as tables; what of it is a single number or a word is returned."""
    config, reporter = session.config, session.reporter
    wanted, seed = config.analysis, config.seed
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    routers = find_routers(model)
    layers, experts, top_k = [router.layer for router in routers], routers[0].num_experts, routers[0].top_k
    vocabulary = Vocabulary.of(tokenizer, passages)
    with TemporaryDirectory(dir=folder) as spill:
        usage = Usage(vocabulary.domains, layers, experts)
        labels = PermutedLabels(passages, len(layers), experts, wanted.permutations, seed, Path(spill) / "counts")
        random = RandomRouters(vocabulary, len(layers), experts, wanted.random_routers, seed)
        direction = Direction(layers)
        similarity = Similarity(passages, layers, wanted.sampled_tokens, wanted.permutations, seed)
        reasons = rollouts(session, passages)  # First, since it refuses prompts that are too long for new tokens.
        with reporter.work("analyze: routing") as advance:
            observe(
                model,
                tokenizer,
                passages,
                [usage, labels, random, direction, similarity],
                config.discovery.batch_tokens,
                advance,
            )
        with reporter.work(f"analyze: {wanted.permutations} permutations of labels"):
            existence = Existence.of(usage, labels, random, vocabulary)
    with reporter.work("analyze: similarity"):
        reasons |= similarity.tables()
    reasons |= origins(session, passages)
    overlap, committee = Overlap.of(usage, top_k, wanted.top_p), Committee.of(usage, wanted.top_p)
    load = Load.of(usage)
    against = Against.of(usage, earlier, wanted.top_p) if earlier else None
    tables: dict[str, pa.Table] = {
        "usage": usage.table(),
        "existence": existence.table(),
        "overlap": overlap.table(),
        "committee": committee.table(),
        "load": load.table(),
        "direction": direction.table(),
        **({"against": against.table()} if against else {}),
        **reasons,
    }
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    with reporter.work("analyze: figures"):
        draw(folder)
    return {
        "domains": list(usage.domains),
        "layers": layers,
        "num_experts": experts,
        "top_k": top_k,
        "top_p": wanted.top_p,
        "texts": dict(sorted(Counter(passage.domain for passage in passages).items())),
        "groups": labels.groups,
        "tokens": vocabulary.tokens,
        "shared_tokens": vocabulary.shared_tokens,
        "existence": existence.to_json(),
        "depth": overlap.depth(),
        "committee": committee.by_layer(),
        "load": load.by_layer(),
        "direction": direction.by_layer(),
        "similarity": reasons["similarity"].to_pylist(),
        "rollout": reasons["rollout"].to_pylist() if "rollout" in reasons else None,
        "origin": reasons["origin"].to_pylist() if "origin" in reasons else None,
        "against": against and against.to_json(),
    }


def _passages(cell: Cell) -> list[Passage]:
    """The user's own texts, or the data set's prompts without those of the test split.

    Raises InputError for texts of one domain, and for one that does not fit the context, where that is known by now.
    """
    config = cell.config
    wanted = config.analysis
    if wanted.texts is not None:
        found = from_folder(Path(wanted.texts))
    else:
        found = from_records([*cell.inputs.splits.discover, *cell.inputs.splits.dev])
    kept = limited(found, wanted.limit)
    if len(domains := domains_of(kept)) < 2:
        raise InputError(f"analysis: holds domains against each other; here is {domains[0] if domains else 'none'}")
    if cell.pretrain is None and (context := context_length(config.model)) is not None:
        tokenizer = tokenizer_of(config.model)
        check_context(context, kept, (len(tokenizer(passage.text).input_ids) for passage in kept))
    return kept


def _causal(config: Config) -> Config:
    """The comparison that asks whether one expert matters: the best one for `domain`, by the config's rule."""
    return replace(
        config,
        study=f"{config.study[:STUDY]}-analyze",
        methods=("base", "dsmoe", "random"),
        steering=replace(config.steering, num_experts=1, strength=STRENGTH, mode="logit", random_draws=1),
        benchmark=replace(config.benchmark, non_target=()),
    )


def _steered(cell: Cell, reporter: Reporter) -> dict[str, Any]:
    """What steering one expert does to the domain's own test questions."""
    results = run_cell(cell, reporter)
    against_base = next(one for one in results.comparisons if one.family == "primary")
    names = ("n", "delta", "ci_low", "ci_high", "p_value", "verdict", "smallest_visible_effect")
    return {
        "cell": cell.id,
        "domain": cell.config.domain,
        "rule": cell.config.discovery.rule,
        "strength": STRENGTH,
        "accuracy": {row.method: row.value for row in results.rows if row.role == "target"},
        **{name: getattr(against_base, name) for name in names},
    }
