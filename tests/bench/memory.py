"""Peak memory at few and at many records, each in a process of its own."""

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import WORDS, random_model, word_tokenizer
from measure import Measure

FEW, MANY = 100, 10_000
ROUNDS = 3
TEXTS = 1_000, 10_000
TESTS = Path(__file__).parent.parent
DISCOVERY = """
import ctypes, json, threading, time
import torch
torch.set_num_threads(1)
from conftest import random_records, word_tokenizer
from shapes import model_of_size
from dsmoe import discover
from dsmoe.usage import measured

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc, held = ctypes.CDLL(None), [0]
libc.mallinfo2.restype = Info

def watch():
    while True:
        info = libc.mallinfo2()
        held[0] = max(held[0], info.uordblks + info.hblkhd)
        time.sleep(0.002)

model, tokenizer = model_of_size(layers=6, experts=32), word_tokenizer()
records = sorted(random_records(10_000), key=lambda record: -len(record.question))
with measured() as usage:
    threading.Thread(target=watch, daemon=True).start()
    discover(model, tokenizer, records[:{records}], batch_tokens=4096)
print(json.dumps([held[0], usage.to_json()["peak_host_bytes"]]))
"""


def memory_measures() -> list[Measure]:
    """Discovery, the longest record and the tokens a batch the same; and an analysis. Both at once: none is timed.

    Of discovery: the most that is held at a time, and that with what malloc keeps of what was given back.
    """
    with ThreadPoolExecutor() as both:
        analyses = both.submit(lambda: [_analysis(texts) for texts in TEXTS])
        few = [_discovery(FEW) for _ in range(ROUNDS)]
        many = _discovery(MANY)
        fewer, more = analyses.result()
    kept = [[mine / theirs for mine, theirs in zip(many, one, strict=True)] for one in few]
    anchor = f"{FEW} records"
    held, resident = (list(ratios) for ratios in zip(*kept, strict=True))
    return [
        Measure(f"discovery, peak memory held, {MANY:,} records", anchor, held, "≤ 1.05"),
        Measure(f"the same with what malloc keeps, {MANY:,} records", anchor, resident),
        Measure(f"analysis, peak resident, {TEXTS[1]:,} texts", f"{TEXTS[0]:,} texts", [more / fewer], "≤ 1.05"),
    ]


def _discovery(records: int) -> list[float]:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS / 'bench'}", "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", DISCOVERY.replace("{records}", str(records))]
    done = subprocess.run(program, check=True, capture_output=True, text=True, env=environment)
    return list(json.loads(done.stdout))


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
