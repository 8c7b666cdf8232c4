"""Slurm's commands without a Slurm: sbatch keeps the script and counts up, squeue says what a file says."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

SBATCH = """#!/bin/sh
[ -e "{folder}/refuses" ] && {{ cat "{folder}/refuses" >&2; exit 1; }}
number=$(($(cat "{folder}/number") + 1)); echo $number > "{folder}/number"
cp "$1" "{folder}/$number.sh"
echo "Submitted batch job $number"
"""
SQUEUE = """#!/bin/sh
[ -e "{folder}/silent" ] && {{ echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }}
cat "{folder}/queue"
"""
SCANCEL = """#!/bin/sh
printf '%s\\n' "$@" >> "{folder}/cancelled"
"""
OTHERS = "#!/bin/sh\nexit 1\n"


class Stub:
    """A Slurm that runs nothing."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        (folder / "number").write_text("100")
        (folder / "queue").write_text("")
        commands = {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL, "srun": OTHERS, "sacct": OTHERS}
        for name, text in commands.items():
            (folder / "bin" / name).write_text(text.format(folder=folder))
            (folder / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")

    @property
    def scripts(self) -> dict[int, str]:
        """The scripts that were submitted, by job id."""
        return {int(path.stem): path.read_text() for path in sorted(self.folder.glob("*.sh"))}

    @property
    def cancelled(self) -> list[str]:
        """What was taken out of the queue."""
        path = self.folder / "cancelled"
        return path.read_text().split() if path.exists() else []

    def queue(self, *rows: tuple[str, int, str], reasons: Mapping[int, str] | None = None) -> None:
        """From now on the queue holds these: the array's name, the job's index in it, its state; why some wait."""
        why = reasons or {}
        lines = (f"{name}|{index}|{state}|node7|{why.get(index, 'Resources')}\n" for name, index, state in rows)
        (self.folder / "queue").write_text("".join(lines))

    def goes_silent(self) -> None:
        (self.folder / "silent").touch()

    def refuses(self, words: str) -> None:
        (self.folder / "refuses").write_text(words)


def submitted(study: Path) -> list[dict[str, Any]]:
    """The submissions of a study, in order."""
    return [json.loads(path.read_text()) for path in sorted((study / ".jobs").glob("*/submission.json"))]
