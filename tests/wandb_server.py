"""A stand-in for the wandb server: as much of its API as the real client wants for a run, and what it was sent."""

import base64
import gzip
import http.server
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

KEY = "c0ffee0123456789" * 3
ENTITY = "acme"


class WandbServer:
    """`runs` holds what every run has, by its id, `views` every workspace and report, in the order they were made.

    `refused` is the id of a run that the server does not take, or `views` where it takes none of these.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.runs: dict[str, dict[str, Any]] = {}
        self.views: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.refused = ""
        self.loses_files = False

    def graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """The answer to a query or mutation, by its name."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        assert found
        self.requests.append(name := found[1])
        answer = getattr(self, re.sub("(?=[A-Z])", "_", name).lower(), None)
        if answer is None:
            raise LookupError(f"the stand-in knows no {name}")
        return dict(answer(**given))

    def _viewer(self) -> dict[str, Any]:
        nobody = {"username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": {"id": "viewer", "entity": ENTITY, **nobody}}

    def _get_default_entity(self) -> dict[str, Any]:
        return {"viewer": {"id": "viewer", "entity": ENTITY}}

    def _server_features_query(self) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _upsert_bucket(self, name: str, project: str, entity: str, config: str, **given: Any) -> dict[str, Any]:
        if name == self.refused:
            raise LookupError(f"run {name} was deleted and its id is not free")
        run = self.runs.setdefault(name, {"files": {}, "history": []})
        run |= {"project": f"{entity}/{project}", "config": json.loads(config)}
        for key in ("groupName", "jobType", "displayName", "tags"):
            if given.get(key):
                run[key] = given[key]
        where = {"id": "project", "name": project, "entity": {"id": "entity", "name": entity or ENTITY}}
        bucket = {"id": f"bucket-{name}", "name": name, "displayName": run["displayName"], "project": where}
        rest = {"description": None, "config": config, "sweepName": None, "historyLineCount": 0}
        return {"upsertBucket": {"inserted": True, "bucket": {**bucket, **rest}}}

    def _artifact_type(self, **_: Any) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _create_artifact(self, **_: Any) -> dict[str, Any]:
        # As if the server had the same bytes already: then the client sends none.
        made = {"id": "artifact", "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": made}}

    def _create_run_files(self, run: str, files: list[str], **_: Any) -> dict[str, Any]:
        places = [{"name": file, "uploadUrl": f"{self.url}/upload/{run}/{file}"} for file in files]
        return {"createRunFiles": {"runID": f"bucket-{run}", "uploadHeaders": [], "files": places}}

    def _run(self, name: str, **_: Any) -> dict[str, Any]:
        run = self.runs[name]
        empty = dict.fromkeys(("sweepName", "commit", "description", "notes", "systemMetrics", "historyKeys"))
        times = dict.fromkeys(("createdAt", "heartbeatAt"), "2026-01-01T00:00:00")
        shown = {
            "id": f"bucket-{name}",
            "projectId": "7",
            "tags": run.get("tags", []),
            "name": name,
            "displayName": run["displayName"],
            "state": "finished",
            "config": json.dumps(run["config"]),
            "group": run["groupName"],
            "jobType": run["jobType"],
            "readOnly": False,
            "summaryMetrics": json.dumps(run["summary"]),
            "historyLineCount": len(run["history"]),
            "user": {"name": "Me", "username": "me"},
        }
        return {"project": {"run": {**empty, **times, **shown}}}

    def _get_projects(self, **_: Any) -> dict[str, Any]:
        names = sorted({run["project"].split("/")[1] for run in self.runs.values()})
        rest = {"id": "7", "entityName": ENTITY, "createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None}
        edges = [{"node": {"name": name, **rest}} for name in names]
        return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def upsert_view(self, name: str, displayName: str, spec: str, **given: Any) -> dict[str, Any]:
        """Make a view, or with an id make it anew."""
        if self.refused == "views":
            raise LookupError("views are closed today")
        if not (found := [view for view in self.views if view["id"] == given.get("id")]):
            self.views.append({"id": f"view-{len(self.views)}"})
        where = {"id": "7", "name": given["projectName"], "entityName": given["entityName"]}
        times = dict.fromkeys(("createdAt", "updatedAt"), "2026-01-01T00:00:00")
        shown = {"type": given["type"], "name": name, "displayName": displayName, "spec": spec, "description": ""}
        view = found[0] if found else self.views[-1]
        view |= {**shown, **times, "project": where, "user": None}
        return {"upsertView": {"view": view, "inserted": not found}}

    _upsert_view2 = upsert_view

    def _view(self, viewType: str = "runs", viewName: str | None = None, **given: Any) -> dict[str, Any]:
        project = given.get("projectName") or given["project"]
        found = [
            view
            for view in self.views
            if (view["type"], view["project"]["name"]) == (viewType, project) and viewName in (None, view["name"])
        ]
        edges = [{"node": view, "cursor": view["id"]} for view in found]
        return {"project": {"allViews": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}}

    _project_views = _view

    def stream(self, run: str, files: dict[str, Any]) -> None:
        """Take lines of a run's streamed files, each at its offset."""
        self.requests.append("file_stream")
        for name, part in files.items():
            lines = [json.loads(line) for line in part["content"]]
            if name == "wandb-summary.json":
                self.runs[run]["summary"] = lines[-1]
            elif name == "wandb-history.jsonl":
                self.runs[run]["history"][part["offset"] :] = lines

    def upload(self, run: str, file: str, content: bytes) -> None:
        """Take a file of a run."""
        self.requests.append("upload")
        self.runs[run]["files"][file] = content


def _handler(server: WandbServer) -> type[http.server.BaseHTTPRequestHandler]:
    allowed = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(200, {})

        def do_POST(self) -> None:
            content = json.loads(self._content())
            if self.headers["Authorization"] != allowed:
                self._answer(401, {"error": "who is this?"})
            elif self.path == "/graphql":
                try:
                    self._answer(200, {"data": server.graphql(content["query"], content.get("variables") or {})})
                except LookupError as error:
                    self._answer(200, {"data": None, "errors": [{"message": str(error)}]})
            elif found := re.fullmatch(r"/files/[^/]+/[^/]+/(\w+)/file_stream", self.path):
                server.stream(found[1], content.get("files") or {})
                self._answer(200, {"exitcode": None, "limits": {}})
            else:
                self._answer(404, {})

        def do_PUT(self) -> None:
            content = self._content()
            _, _, run, file = self.path.split("/", 3)
            if not server.loses_files:
                server.upload(run, file, content)
            self._answer(403 if server.loses_files else 200, {})

        def _content(self) -> bytes:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


class _Listening(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """The client may go away without a word."""


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """One on a free port of this machine."""
    with _Listening(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as listening:
        server = WandbServer(listening.server_port)
        listening.RequestHandlerClass = _handler(server)
        Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            listening.shutdown()
