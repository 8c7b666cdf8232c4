"""What of a config results show, and what of it they depend on."""

from typing import Any

from dsmoe.config import Config
from dsmoe.config.validation import SCHEMA
from dsmoe.models.load import Node

TRANSPORT = ("paths", "cluster", "tracking", "study", "calibration", "analysis")
"""Keys of the config that no result depends on."""
ELSEWHERE = (
    ("model", "path"),
    ("model", "device_map"),
    ("dataset", "path"),
    ("benchmark", "path"),
    ("discovery", "checkpointing"),
    ("discovery", "profile"),
    ("steering", "file"),
    ("sft", "adapter"),
)
"""Paths, whose content the stages know, and what spreads or saves memory and changes no bit."""


def shown(config: Config) -> dict[str, Any]:
    """The config without where it runs and where results lie."""
    # As `asdict` has it, which takes nine times as long.
    content: dict[str, Any] = SCHEMA.dump_python(config)
    return {key: value for key, value in content.items() if key not in TRANSPORT}


def depended_on(config: Config, node: Node, backend: dict[str, Any]) -> dict[str, Any]:
    """The same as it comes out on this node, with the device that `auto` means, and without what lies elsewhere.

    `backend` is what answers the questions, where that is not transformers.
    """
    content = shown(config)
    content["model"] |= {"device": node.device, "threads": node.threads}
    for group, key in ELSEWHERE:
        content[group][key] = None
    # Cells of transformers are known by what they were before there was another backend.
    if content.pop("backend") == "transformers":
        del content["vllm"]
    else:
        content["vllm"] = backend
    return content
