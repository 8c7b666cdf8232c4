"""MMLU-Pro (arXiv 2406.01574): its test questions, from the Hub or from a local file in either field naming."""

from dataclasses import replace

from dsmoe.config import DatasetConfig
from dsmoe.domains.read import read_records, to_records
from dsmoe.domains.records import Record

HUB = "TIGER-Lab/MMLU-Pro"


def load(config: DatasetConfig) -> list[Record]:
    """All test questions of MMLU-Pro, each with its category as the domain."""
    if config.path is not None:
        records = read_records(config.path)
    else:
        from datasets import load_dataset

        rows = load_dataset(HUB, split="test", revision=config.revision)
        records = to_records(((f"{HUB}: row {number}", row) for number, row in enumerate(rows)), HUB)
    # MMLU-Pro calls all its questions "test"; which of them are ours to test with, our own splits say.
    return [replace(record, split=None) for record in records]
