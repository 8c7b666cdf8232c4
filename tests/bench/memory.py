"""Peak memory at few and at many records, each in a process of its own."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import WORDS, random_model, word_tokenizer
from measure import Measure

RECORDS = 100, 10_000
TEXTS = 1_000, 10_000
TESTS = Path(__file__).parent.parent
DISCOVERY = """
import resource, sys
import torch
torch.set_num_threads(1)
from conftest import random_records, word_tokenizer
from shapes import model_of_size
from dsmoe import discover
model, tokenizer = model_of_size(layers=6, experts=32), word_tokenizer()
longest, *others = sorted(random_records(10_000), key=lambda record: -len(record.question))
discover(model, tokenizer, [longest, *others[-{others}:]], batch_tokens=4096)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory_measures() -> list[Measure]:
    """Discovery, the longest record and the tokens a batch the same; and an analysis."""
    few, many = (_discovery(records) for records in RECORDS)
    fewer, more = (_analysis(texts) for texts in TEXTS)
    return [
        Measure(f"discovery, peak memory, {RECORDS[1]:,} records", f"{RECORDS[0]} records", [many / few], "≤ 1.05"),
        Measure(f"analysis, peak memory, {TEXTS[1]:,} texts", f"{TEXTS[0]:,} texts", [more / fewer], "≤ 1.05"),
    ]


def _discovery(records: int) -> float:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS / 'bench'}", "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", DISCOVERY.format(others=records - 1)]
    return float(subprocess.run(program, check=True, capture_output=True, text=True, env=environment).stdout)


def _analysis(texts: int) -> float:
    with TemporaryDirectory() as folder:
        given = Path(folder)
        random_model("qwen3_moe").save_pretrained(given / "model")
        word_tokenizer().save_pretrained(given / "model")
        (given / "texts").mkdir()
        for domain in range(4):
            draw = random.Random(domain)
            paragraphs = (" ".join(draw.choices(WORDS[10 * domain :], k=30)) for _ in range(texts // 4))
            (given / "texts" / f"{domain}.txt").write_text("\n\n".join(paragraphs))
        overrides = [
            f"model.path={given / 'model'}",
            f"analysis.texts={given / 'texts'}",
            f"paths.results={given}/results",
        ]
        subprocess.run(
            [sys.executable, "-m", "dsmoe", "analyze", "model=checkpoint", *overrides],
            check=True,
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        (status,) = (given / "results" / "stages" / "analyze").glob("*/status.json")
        return float(json.loads(status.read_text(encoding="utf-8"))["peak_host_bytes"])
