"""What an engine of vLLM is asked of us, and what of that no engine can do. It imports nothing of vLLM."""

import os
from typing import Any

from dsmoe.errors import InputError

VARIABLE = "DSMOE_STEERING"
SECTION = "dsmoe"


def wanted(config: Any) -> dict[str, Any] | None:
    """What an engine's config (a VllmConfig) or the environment asks of us: at most a path; None if nothing.

    Raises InputError for what we do not understand.
    """
    additional = config.additional_config if isinstance(config.additional_config, dict) else {}
    section, path = additional.get(SECTION), os.environ.get(VARIABLE)
    if section is None:
        return {"steering": path} if path else None
    if not isinstance(section, dict) or set(section) - {"steering"}:
        raise InputError(f'additional_config: {SECTION} is {section!r}; it should be {{"steering": PATH}}')
    if path:
        raise InputError(f"{VARIABLE}: is set, but additional_config has {SECTION!r} too; one of them is enough")
    return section


def check_mode(steering: Any) -> None:
    """Raise InputError for modes that act after the router's logits, which no layer of vLLM lets us change."""
    if steering.mode != "logit":
        raise InputError(f"steering: mode {steering.mode} cannot be done in vLLM, only logit, before the choice")
