"""Speed and memory, side by side with an anchor in one run: `make bench`. Not a test: nothing here can fail.

`python tests/bench [PART…] [--json FILE]` measures those parts, all of them by default.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

PARTS = {
    "evaluation": "evaluation:evaluation_measures",
    "discovery": "discovery:discovery_measures",
    "steering": "steered:steering_measures",
    "router": "steered:router_call_measures",
    "sweep": "evaluation:sweep_measures",
    "memory": "memory:memory_measures",
    "start": "command_line:start_measures",
    "cells": "command_line:cells_measures",
    "growth": "growth:growth_measures",
}
"""Evaluation comes first: what other parts leave in the heap makes its ratio wander by more than its reach."""
ASKED_FOR = {"vllm": "served:served_measures"}
"""What wants the environment of `make test-vllm`, and is measured only if it is named."""


def main() -> int:
    """Measure the parts that are named, and print the table."""
    arguments, file = sys.argv[1:], Path("bench.json")
    if "--json" in arguments:
        at = arguments.index("--json")
        file = Path(arguments[at + 1])
        del arguments[at : at + 2]
    if unknown := [name for name in arguments if name not in PARTS | ASKED_FOR]:
        print(f"bench: {unknown[0]!r} is not one of {', '.join(PARTS | ASKED_FOR)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    table = Table(title="ours beside the anchor", title_justify="left")
    for column in ("what", "anchor", "reach", "median", "min", "max", "n"):
        table.add_column(column, justify="left" if column in ("what", "anchor", "reach") else "right")
    found = []
    for name in arguments or PARTS:
        module, _, function = (PARTS | ASKED_FOR)[name].partition(":")
        measure: Callable[[], list[Any]] = getattr(import_module(module), function)
        began = time.perf_counter()
        for one in (measured := measure()):
            line = one.to_json()
            found.append({"part": name, **line})
            figures = (f"{line[key]:.2f} {line['unit']}" for key in ("median", "min", "max"))
            table.add_row(one.what, one.anchor, one.reach, *figures, str(line["n"]))
            print(f"{name}: {one.what}: {one.median:.2f} {one.unit}", file=sys.stderr)
        assert measured
        print(f"{name}: measured in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    Console(width=140).print(table)
    print(f"bench: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
