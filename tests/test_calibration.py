"""Calibration: studies made from kept outcomes, and the verb on a briefly trained planted model."""

import json
from pathlib import Path

import numpy as np
import pytest

from dsmoe.analysis.calibration import METHODS, Candidate, Kept, false_alarms, power
from dsmoe.cli import main

QUESTIONS, DEV, STUDIES = 150, 60, 60


def kept(groups: int = QUESTIONS, seed: int = 0) -> Kept:
    """Answers of methods of which dsmoe is much better than base, at two strengths."""
    generator = np.random.default_rng(seed)
    shares = {"base": 0.5, "sft": 0.4, "dsmoe": 0.8, "other_domain": 0.45}
    test = np.array([generator.random(QUESTIONS) < shares[method] for method in METHODS])
    dev = np.array([generator.random(DEV) < share for share in (0.5, 0.8)])
    candidates = [Candidate({"strength": strength}, dev, dev, test) for strength in (1.0, 4.0)]
    return Kept(candidates, tuple(str(number % groups) for number in range(QUESTIONS)))


@pytest.mark.parametrize("groups", [QUESTIONS, 40])
def test_true_differences_are_gone_from_studies_without_any(groups: int) -> None:
    """They are large in what was kept. At 5%, sixty studies have more than ten false alarms once in 2,000 times."""
    assert false_alarms(kept(groups), STUDIES, seed=1).found <= 10


def test_power_grows_with_the_effect() -> None:
    shares = [power(kept(), effect, STUDIES, seed=1).share for effect in (0.02, 0.15, 0.4)]
    assert shares == sorted(shares)
    assert shares[0] < 0.3
    assert shares[-1] > 0.9


def test_studies_are_seeded() -> None:
    assert power(kept(), 0.1, 20, seed=1) == power(kept(), 0.1, 20, seed=1)


def test_the_verb_measures_recovery_false_alarms_and_power(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "calibrate",
        "model.pretrain.steps=20",
        "model.pretrain.seed=0",
        "domain=geography",
        "steering.strength_grid=[0,4]",
        "steering.random_draws=2",
        "sft.epochs=1",
        "benchmark.limit=12",
        "benchmark.non_target=[biology]",
        "discovery.limit=20",
        "calibration.seeds=1",
        "calibration.studies=5",
        "calibration.effects=[0.5]",
        f"paths.results={tmp_path}",
    ]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    (folder,) = (tmp_path / "stages" / "calibrate").iterdir()
    found = json.loads((folder / "calibration.json").read_text())
    assert [one["seed"] for one in found["recovery"]] == [0]
    assert {"dsmoe", "risk_difference", "rice", "esft", "frequency", "random"} <= set(found["recovery"][0]["rules"])
    assert all(0 <= rule["auroc"] <= 1 for one in found["recovery"] for rule in one["rules"].values())
    assert set(found["recovery"][0]["accuracy"]) == {"chance", "base", "dsmoe", "random", "oracle"}
    assert found["recovery"][0]["draws"] == 2
    assert (found["questions"], found["false_alarms"]["studies"]) == (12, 5)
    assert (folder / "calibration.svg").read_text().startswith("<?xml")
    assert (folder / "calibration.md").read_text().strip() in out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert main(arguments) == 0
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("override", "says"),
    [("model=tiny", "wants a planted truth"), ("steering.strength=4", "judges the choice on dev too")],
)
def test_what_cannot_be_calibrated_is_refused(
    override: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", override, f"paths.results={tmp_path}"]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
