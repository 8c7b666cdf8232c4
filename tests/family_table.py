"""The table of families and modes in docs/families.md: `make families` makes it, the tests hold it to what they see."""

from pathlib import Path

from conftest import CONFIGS
from router_oracle import CASES, outcome

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
SEEDS = (0, 1)
WORDS = {
    frozenset({"equal"}): "✓",
    frozenset({"refused"}): "refused",
    frozenset({"equal", "undone"}): "✓, raises where undone",
    frozenset({"undone"}): "raises: undone",
}
"""What the outcomes over all strengths and seeds are called."""
HEADER = f"| model type | {' | '.join(CASES)} |"


def documented() -> dict[tuple[str, str], str]:
    """What the page says of each family and mode."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = lines[lines.index(HEADER) + 2 :]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]
    return {
        (family.strip("`"), mode): said for family, *found in cells for mode, said in zip(CASES, found, strict=True)
    }


def measured(family: str, mode: str) -> str:
    """What a family does in a mode, over all strengths and seeds."""
    return WORDS[frozenset(outcome(family, mode, *case, seed) for case in CASES[mode] for seed in SEEDS)]


def main() -> None:
    """Write the table anew."""
    rows = [f"| `{family}` | {' | '.join(measured(family, mode) for mode in CASES)} |" for family in sorted(CONFIGS)]
    text = PAGE.read_text(encoding="utf-8").partition(HEADER)[0]
    PAGE.write_text("\n".join([f"{text}{HEADER}", "|---|" + "---|" * len(CASES), *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
