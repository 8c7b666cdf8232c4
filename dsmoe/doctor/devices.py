"""What torch sees, printed as JSON: a program of its own, since a broken driver may end it or hold it for ever."""

import json
import sys
from typing import Any


def devices() -> dict[str, Any]:
    """Torch's version, its CUDA or ROCm, its threads, and its GPUs."""
    import torch

    gpus = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        with torch.cuda.device(number):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        gpus.append({"name": properties.name, "memory": properties.total_memory, "bf16": bf16})
    return {
        "version": torch.__version__,
        "built_for": torch.version.cuda or torch.version.hip,
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


if __name__ == "__main__":
    json.dump(devices(), sys.stdout)
