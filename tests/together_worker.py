"""What torchrun starts in tests: every task below a folder, and which share of the weights each process holds."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from pydantic import TypeAdapter
from torch.distributed.tensor import DTensor

from dsmoe.baselines import sft
from dsmoe.baselines.sharding import shard_adapter
from dsmoe.baselines.together import TASK, Task, fine_tune_share

held: list[float] = []


def shard_and_weigh(adapter: PeftModel) -> None:
    """Shard the adapter, and see what is left here of it and of the model."""
    shard_adapter(adapter)
    weights = list(adapter.parameters())
    here = sum((weight.to_local() if isinstance(weight, DTensor) else weight).numel() for weight in weights)
    held.append(here / sum(weight.numel() for weight in weights))


patch = pytest.MonkeyPatch()
patch.setattr(sft, "shard_adapter", shard_and_weigh)
patch.setattr(sft, "CHECKPOINTING_FROM", 0)  # as for the models that want several processes; it changes no bit
for folder in sorted(Path(sys.argv[1]).iterdir()):
    task = TypeAdapter(Task).validate_json((folder / TASK).read_text())
    (folder / "together").mkdir(exist_ok=True)
    training = fine_tune_share(task, folder / "together", None)
    rank = torch.distributed.get_rank()
    (folder / f"training-{rank}.json").write_text(json.dumps({**asdict(training), "held": held[-1]}))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
