"""Commands, in processes of their own: help, composing, a sweep of many cells planned, looked at and reported."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from measure import Measure, in_turn, seconds

ROUNDS = 7
COMPOSE = "from dsmoe.compose import compose_cells; compose_cells([])"
SIZES = (100, 1_000, 10_000)


def python(code: str) -> None:
    """Run a line of Python in a new process."""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def dsmoe(*arguments: str, folder: Path) -> None:
    """Run a command in a folder; its words are not ours to show."""
    subprocess.run([sys.executable, "-m", "dsmoe", *arguments], check=True, cwd=folder, capture_output=True)


def start_measures() -> list[Measure]:
    """Help and composing, beside importing Hydra alone, which composing cannot do without."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for what, ours, reach in (
            ("dsmoe --help", lambda: dsmoe("--help", folder=Path(folder)), "≤ 0.5 s"),
            ("composing one config", lambda: python(COMPOSE), "≤ 1.0 s"),
        ):
            pairs = in_turn(ours, lambda: python("import hydra"), ROUNDS)
            found.append(Measure(what, "", [mine for mine, _ in pairs], reach, "s"))
            found.append(Measure(f"{what}, time", "import hydra", [mine / theirs for mine, theirs in pairs]))
    return found


def cells_measures() -> list[Measure]:
    """plan, status and report over 100, 1,000 and 10,000 cells."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dsmoe(
            "compare",
            "model.pretrain.steps=5",
            "benchmark.limit=5",
            "steering.random_draws=1",
            "methods=[base,dsmoe]",
            "study=one",
            folder=folder,
        )
        (cell,) = (path.parent for path in folder.glob("results/one/*/results.json"))
        for cells in SIZES:
            study, reach = f"cells-{cells}", "≤ 10 s" if cells == 1_000 else ""
            _copy(cell, folder / "results" / study, cells)
            sweep = f"steering.strength=range(0,{cells // 10})", "steering.num_experts=range(1,11)"
            for verb, arguments in (
                ("plan", ("-m", "methods=[base,dsmoe]", "benchmark.limit=5", *sweep)),
                ("status", (f"study={study}",)),
                ("report", (f"study={study}",)),
            ):
                taken = seconds(partial(dsmoe, verb, *arguments, folder=folder))
                found.append(Measure(f"{verb} over {cells:,} cells", "", [taken], reach, "s"))
    return found


def _copy(cell: Path, study: Path, cells: int) -> None:
    """A study of so many cells: copies of a finished one at other strengths; files that stay alike are the same."""
    results = json.loads((cell / "results.json").read_text(encoding="utf-8"))
    for number in range(cells):
        name = f"{number:020x}"
        shutil.copytree(cell, study / name, copy_function=os.link, ignore=shutil.ignore_patterns("results.json"))
        results["cell"] = name
        results["config"]["steering"]["strength"] = float(number)
        for row in results["rows"]:
            if row["strength"] is not None:
                row["strength"] = float(number)
        (study / name / "results.json").write_text(json.dumps(results), encoding="utf-8")
