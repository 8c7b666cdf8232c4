"""The program that talks to wandb: `python -m dsmoe.tracking.client`, in a process of its own.

A request is a file, named by a line on standard input; its answer is a line on standard output; both are JSON. Whatever
wandb does to its process, and however long it takes, the one that computes is out of its reach. The key is wandb's to
find, and in no request.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REACH_SECONDS = 5.0
INIT_SECONDS = 30.0
SEEN_SECONDS = 30.0
"""How long a server may take to show what it was sent."""
RETRIES = 3


class RefusedError(RuntimeError):
    """What a user can mend, as a sentence."""


def serve() -> None:
    """Answer requests until there are no more."""
    # What libraries print is no answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(Path(line.rstrip("\n")).read_text(encoding="utf-8"))
        try:
            answer = DOES[request.pop("do")](**request)
        except RefusedError as error:
            answer = {"error": str(error)}
        except Exception as error:  # Whatever it is: whoever asked says it.
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(answer), file=answers, flush=True)


def reach(entity: str | None) -> dict[str, Any]:
    """The server that wandb is configured for, and the entity that runs go to, once it has accepted the key."""
    import requests
    import wandb

    settings = wandb.setup().settings
    server = settings.base_url
    try:
        requests.get(server, timeout=REACH_SECONDS)
    except requests.RequestException as error:
        raise RefusedError(f"{server} cannot be reached: {_reason(error)}") from error
    try:
        wandb.login(verify=True)
    except wandb.errors.AuthenticationError as error:
        raise RefusedError(f"{server} does not accept the API key: {error}") from error
    except wandb.errors.UsageError as error:
        raise RefusedError(f"no API key for {server}: run wandb login, or set WANDB_API_KEY") from error
    entity = entity or wandb.Api().default_entity
    if not entity:
        raise RefusedError(f"{server} names no default entity for this API key: set tracking.entity")
    return {"server": settings.app_url.rstrip("/"), "entity": entity}


def write(
    run: dict[str, Any], project: str, entity: str | None, tags: list[str], folder: str, offline: bool
) -> dict[str, Any]:
    """Write one run, into a new run folder below `folder`; online, it is at the server when this returns."""
    import wandb

    # Tables are staged there, and an offline run refers to them.
    os.environ["WANDB_DATA_DIR"] = folder
    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        init_timeout=INIT_SECONDS,
        save_code=False,
        silent=True,
        symlink=False,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_file_stream_retry_max=RETRIES,
        x_file_transfer_retry_max=RETRIES,
        x_graphql_retry_max=RETRIES,
        x_save_requirements=False,
    )
    # Without `resume`: a run that is there already is written anew, not twice.
    written = wandb.init(
        mode="offline" if offline else "online",
        dir=folder,
        project=project,
        entity=entity,
        id=run["id"],
        name=run["name"],
        group=run["group"],
        job_type=run["job_type"],
        tags=tags,
        config=run["config"],
        settings=settings,
    )
    tables = {name: wandb.Table(columns=columns, data=rows) for name, (columns, rows) in run["tables"].items()}
    figures = {f"figures/{name}": wandb.Image(path) for name, path in run["figures"].items()}
    written.log({**tables, **figures})
    written.summary.update(run["summary"])
    log = Path(written.settings.log_internal)
    written.finish()
    _check_log(log)
    if offline:
        shutil.rmtree(log.parent)  # It holds a link to a log that goes with this process.
    else:
        _wait_until_seen(f"{entity}/{project}/{run['id']}", run["hash"])
    return {}


def show(**dashboard: Any) -> dict[str, Any]:
    """Make a dashboard; its library is imported for it alone."""
    from dsmoe.tracking.views import make

    return make(**dashboard)


def _check_log(path: Path) -> None:
    """Raise what wandb only writes into its log: it ends a run without a word where a file was not taken."""
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        # An older server does not know the question.
        if entry["level"] == "ERROR" and not entry["msg"].startswith("featurechecker"):
            raise RefusedError(" ".join(f"wandb: {entry['msg']} {entry.get('error', '')}".split()))


def _wait_until_seen(path: str, digest: str) -> None:
    """Until the server shows the summary: that it took the last request is not yet that it has it."""
    import wandb

    end = time.monotonic() + SEEN_SECONDS
    while wandb.Api().run(path).summary_metrics.get("results_hash") != digest:
        if time.monotonic() > end:
            raise RefusedError(f"{path} does not show what it was sent after {SEEN_SECONDS:g} s")
        time.sleep(1)


def _reason(error: BaseException) -> str:
    """The innermost word on it: requests and urllib3 wrap what the socket said."""
    while isinstance(inner := error.__cause__ or error.__context__ or getattr(error, "reason", None), BaseException):
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


DOES: dict[str, Callable[..., dict[str, Any]]] = {"reach": reach, "write": write, "show": show}

if __name__ == "__main__":
    serve()
