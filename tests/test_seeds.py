"""Several seeds of a study, aggregated: against the statistics module on results that differ in seeds alone."""

import io
from dataclasses import replace
from statistics import fmean, stdev

from rich.console import Console
from test_table import results

from dsmoe.report.seeds import by_seed, seeds_table
from dsmoe.results import Results


def seeded(seed: int, accuracy: float, strength: float = 4.0) -> Results:
    """Results whose config has a seed at the top and one deep inside."""
    config = {"seed": seed, "model": {"pretrain": {"seed": seed + 7}}, "steering": {"strength": strength}}
    rows = tuple(
        replace(row, value=accuracy) if (row.method, row.role) == ("dsmoe", "target") else row for row in results().rows
    )
    return replace(results(), config=config, rows=rows)


def test_only_what_differs_in_seeds_alone_is_aggregated() -> None:
    ones = [seeded(0, 0.4), seeded(1, 0.5)]
    assert by_seed([*ones, seeded(2, 0.5, strength=9.0)]) == [ones]
    assert by_seed(ones[:1]) == []


def test_means_and_spread_between_seeds() -> None:
    values = [0.4, 0.5, 0.63]
    file = io.StringIO()
    Console(file=file, width=200).print(seeds_table([seeded(n, value) for n, value in enumerate(values)]))
    lines = {line.split()[0]: " ".join(line.split()) for line in file.getvalue().splitlines() if line.strip()}
    mean, deviation = f"{100 * fmean(values):.1f}", f"{100 * stdev(values):.1f}"
    assert lines["3"] == "3 seeds: means, standard deviations between seeds"
    assert lines["dsmoe"].startswith(
        f"dsmoe {mean} {deviation} 40.0 – 63.0 \N{MINUS SIGN}1.6 0.0 3 no evidence 35.7 0.0"
    )
    assert lines["base"].startswith("base 42.4 0.0 42.4 – 42.4 35.7 0.0")
