"""wandb: its version, what a run would do with it, and whether there is a key to publish with."""

import netrc
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from dsmoe.config import TrackingConfig
from dsmoe.doctor.finding import Finding, ok, warning

MENDS = "wandb login, or set WANDB_API_KEY"


def tracking(config: TrackingConfig, results: str) -> Iterator[Finding]:
    """What becomes of finished cells; nothing is sent, nobody is asked, and no key is shown."""
    try:
        version = metadata.version("wandb")
    except metadata.PackageNotFoundError:
        return  # Among the packages that are not installed, it is trouble already.
    where = f"; runs lie in {Path(results) / 'STUDY' / '.wandb'}" if config.mode == "offline" else ""
    yield ok(f"wandb {version}, tracking.mode={config.mode}{where}")
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if source := _key(server):
        yield ok(f"dsmoe publish would go to {server}, with the key of {source}")
    elif config.mode == "online":
        yield warning(f"tracking.mode is online, but there is no API key for {server}", MENDS)
    else:
        yield ok(f"no API key for {server}; dsmoe publish wants one: {MENDS}")


def _key(server: str) -> str | None:
    """Where the server's key comes from, if there is one."""
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(variable):
            return variable
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        found = netrc.netrc(path).authenticators(urlsplit(server).netloc)
    except (OSError, netrc.NetrcParseError):
        return None
    return str(path) if found else None
