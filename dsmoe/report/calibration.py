"""The calibration's table and figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsmoe.report.plot import keep, style
from dsmoe.report.table import pipes


def markdown(found: Mapping[str, Any]) -> str:
    """What `calibration.json` holds, as three tables in GitHub's Markdown."""
    seeds = found["recovery"]
    parts = [
        f"**Recovery** of the experts planted for {found['domain']}, a model a seed: area under the ROC curve, and "
        "precision among as many experts as were planted",
        pipes(
            ["rule", *(f"seed {one['seed']}" for one in seeds), "mean AUROC"],
            [
                [rule, *(_recovered(one["rules"][rule]) for one in seeds), f"{_mean(rule, seeds):.3f}"]
                for rule in sorted(seeds[0]["rules"], key=lambda rule: -_mean(rule, seeds))
            ],
        ),
        "**Steering** toward them, percent right on the target",
        pipes(
            ["seed", "base", "dsmoe", "oracle", "p (Holm)", "verdict", "above random draws"],
            [
                [
                    str(one["seed"]),
                    *(f"{100 * one['accuracy'][method]:.1f}" for method in ("base", "dsmoe", "oracle")),
                    f"{one['p_adjusted']:.1g}",
                    one["verdict"],
                    f"{one['above']} of {one['draws']}",
                ]
                for one in seeds
            ],
        ),
        f"**Verdicts** of studies made from kept answers to {found['questions']} questions",
        pipes(
            ["true gain", "studies", "found", "share"],
            [
                ["none: false alarms", *_rate(found["false_alarms"])],
                *([f"{100 * one['effect']:g} points", *_rate(one)] for one in found["power"]),
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def figure(found: Mapping[str, Any], path: Path) -> None:
    """Power over the true gain, with false alarms at none, as SVG and PNG beside `path`."""
    effects = [0.0, *(one["effect"] for one in found["power"])]
    shares = [one["found"] / one["studies"] for one in (found["false_alarms"], *found["power"])]
    with style():
        from matplotlib import pyplot

        plot, axes = pyplot.subplots(figsize=(5, 3.2))
        axes.plot([100 * effect for effect in effects], [100 * share for share in shares], marker="o")
        axes.axhline(80, linestyle=":", color="grey")
        axes.axhline(5, linestyle=":", color="grey")
        axes.set(xlabel="true gain on the target, points", ylabel="studies that find it, %", ylim=(0, 102))
        keep(plot, path)


def _recovered(of: Mapping[str, float]) -> str:
    return f"{of['auroc']:.3f}, {100 * of['precision']:.0f}%"


def _mean(rule: str, seeds: Sequence[Mapping[str, Any]]) -> float:
    return sum(float(one["rules"][rule]["auroc"]) for one in seeds) / len(seeds)


def _rate(rate: Mapping[str, int]) -> list[str]:
    return [str(rate["studies"]), str(rate["found"]), f"{100 * rate['found'] / rate['studies']:.1f}%"]
