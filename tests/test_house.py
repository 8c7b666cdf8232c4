"""Imports run one way: no module of the package imports one of a higher floor, and there is no circle."""

import ast
from pathlib import Path

import dsmoe

PACKAGE = Path(dsmoe.__file__).parent
FLOORS = [
    {"errors", "disk", "folders", "plugins", "progress", "journal", "usage", "provenance", "remembered"},
    {"config", "compose", "stage", "results", "domains"},
    {"models", "evaluation", "report", "launch", "tracking"},
    {"discovery", "baselines"},
    {"steering", "analysis"},
    {
        "inputs",
        "parts",
        "agenda",
        "cell",
        "checks",
        "content",
        "methods",
        "tuning",
        "analyze",
        "reasons",
        "calibrate",
        "effort",
        "forecast",
        "session",
        "workshop",
        "serving",
        "compare",
        "jobs",
        "plan",
        "prospect",
        "aside",
        "prepare",
        "doctor",
        "verbs",
        "harness",
        "steered_lm",
    },
    {"help", "cli", "__main__", "__init__"},
]


def room(module: str) -> str:
    return module.split(".")[1]


def imported() -> dict[str, set[str]]:
    """The modules of the package that each of its modules imports, also inside functions."""
    arrows = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(("dsmoe", *path.relative_to(PACKAGE).with_suffix("").parts))
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dsmoe."):
                found.add(str(node.module))
            elif isinstance(node, ast.ImportFrom) and node.module == "dsmoe":
                found |= {f"dsmoe.{alias.name}" for alias in node.names}
        arrows[name] = found
    return arrows


def test_every_module_has_a_floor_and_no_import_goes_up() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    for module, others in imported().items():
        for other in others:
            assert floor[room(other)] <= floor[room(module)], f"{module} imports {other}"


def test_there_is_no_circle_between_rooms() -> None:
    arrows: dict[str, set[str]] = {}
    for module, others in imported().items():
        if module != "dsmoe.__init__":
            arrows.setdefault(room(module), set()).update(room(other) for other in others)
    seen: list[str] = []
    while left := [name for name in arrows if name not in seen]:
        free = [name for name in left if arrows[name] - {name} <= set(seen)]
        assert free, f"a circle among {left}"
        seen += free
