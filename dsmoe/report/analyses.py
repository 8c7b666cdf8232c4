"""Analyses of the models that a collection is about: the evidence whether domain-specific experts exist in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pyarrow import parquet

from dsmoe.report.collection import Collection
from dsmoe.stage import is_finished


@dataclass(frozen=True)
class Analysis:
    """One finished analysis: of which models as the collection's cells name them, of which texts, and its figures."""

    folder: Path
    models: tuple[str, ...]
    config: dict[str, Any]

    @property
    def texts(self) -> str:
        """The domains whose texts were read, and the hash of these."""
        path = self.folder / "usage.parquet"
        rows = parquet.read_table(path, columns=["domain"]).column("domain").unique() if path.exists() else []
        return f"{', '.join(map(str, rows)) or 'of unknown domains'} ({self.config['passages']})"

    @property
    def sentences(self) -> list[str]:
        """What the analysis says in words; its tables stay in its own folder."""
        path = self.folder / "analysis.md"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line.removeprefix("- ") for line in lines if line.startswith("- ")]

    @property
    def figures(self) -> list[Path]:
        """Its drawings."""
        return sorted(self.folder.glob("*.svg"))


def analyses(collection: Collection, results: Sequence[Path]) -> list[Analysis]:
    """The finished analyses below the results folders of models with the very weights that the cells have."""
    models: dict[str, set[str]] = {}
    for entry in collection.entries:
        models.setdefault(_weights(entry.results.provenance.get("model")), set()).add(entry.group[0])
    found = []
    for path in sorted(path for root in results for path in root.glob("stages/analyze/*/config.yaml")):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))["config"]
        names = models.get(_weights(config.get("model")))
        if names and is_finished(path.parent):
            found.append(Analysis(path.parent, tuple(sorted(names)), config))
    return found


def _weights(model: Any) -> str:
    return str(model["weights"]) if isinstance(model, dict) and "weights" in model else ""
