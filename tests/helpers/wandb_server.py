"""A W&B server on this machine that answers just enough for runs, artifacts, workspaces and reports, and keeps them."""

import gzip
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789" * 4
ENTITY, PROJECT_ID = "me", "project-id"
TIME = "2024-01-01T00:00:00Z"


class Kept(ThreadingHTTPServer):
    """What was sent.

    Attributes:
        asked: Every GraphQL operation's name and variables, in order.
        runs: Run id to what was said of it.
        lines: Run id to the file of a stream to its lines.
        uploads: Path to the bytes that were put there.
        artifacts: Name to what was said of it.
        unknown: Operations that there is no answer to.
    """

    daemon_threads = True

    def __init__(self, project: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.project = project
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, dict[str, list[Any]]] = {}
        self.uploads: dict[str, bytes] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.unknown: set[str] = set()

    @property
    def environment(self) -> dict[str, str]:
        """What sends a process here, logged in."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "NETRC": os.devnull}

    def variables(self, operation: str) -> list[dict[str, Any]]:
        return [told for name, told in self.asked if name == operation]

    def answer(self, operation: str, told: dict[str, Any]) -> Any:
        self.asked.append((operation, told))
        find: Callable[[dict[str, Any]], Any] | None = getattr(self, f"_{operation}", None)
        if find is None:
            self.unknown.add(operation)
            return {}
        return find(told)

    def stream(self, run: str, files: dict[str, Any]) -> None:
        for name, chunk in files.items():
            kept = self.lines.setdefault(run, {}).setdefault(name, [])
            for place, line in enumerate(chunk["content"], start=chunk["offset"]):
                kept[place:] = [json.loads(line)]

    # ------------------------------------------------------------------ runs

    def _UpsertBucket(self, told: dict[str, Any]) -> Any:  # noqa: N802  as W&B calls it
        run = self.runs.setdefault(told["name"], {})
        run.update({key: value for key, value in told.items() if value is not None})
        project = {"id": PROJECT_ID, "name": run["project"], "entity": {"id": "entity-id", "name": ENTITY}}
        names = {"id": told["name"], "name": told["name"], "displayName": run.get("displayName")}
        bucket = {**names, "description": None, "config": "{}", "sweepName": None, "historyLineCount": 0}
        return {"upsertBucket": {"bucket": {**bucket, "project": project}, "inserted": True}}

    def _RunResumeStatus(self, told: dict[str, Any]) -> Any:  # noqa: N802
        counts = dict.fromkeys(("logLineCount", "historyLineCount", "eventsLineCount"), 0)
        kept = {"summaryMetrics": "{}", "config": "{}", "historyTail": "[]", "eventsTail": "[]", "tags": []}
        names = {"id": told["name"], "name": told["name"], "displayName": told["name"]}
        bucket = {**names, **counts, **kept, "wandbConfig": '{"t": 1}'}
        return {"model": {"id": PROJECT_ID, "name": told["project"], "bucket": bucket}}

    def _ServerFeaturesQuery(self, told: dict[str, Any]) -> Any:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _CreateRunFiles(self, told: dict[str, Any]) -> Any:  # noqa: N802
        files = [{"name": f, "uploadUrl": f"{self.url}/{told['run']}/{f}"} for f in told["files"]]
        return {"createRunFiles": {"runID": told["run"], "uploadHeaders": [], "files": files}}

    # ------------------------------------------------------------------ artifacts

    def _CreateArtifact(self, told: dict[str, Any]) -> Any:  # noqa: N802
        made = {"id": told["input"]["artifactCollectionName"], "state": "PENDING"}
        self.artifacts[made["id"]] = told["input"]
        return {"createArtifact": {"artifact": {**made, "artifactSequence": {"latestArtifact": None}}}}

    def _CreateArtifactManifest(self, told: dict[str, Any]) -> Any:  # noqa: N802
        place = f"{self.url}/{told['artifactID']}/{told['name']}"
        file = {"id": "file", "uploadUrl": place, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": told["artifactID"], "file": file}}}

    def _CreateArtifactFiles(self, told: dict[str, Any]) -> Any:  # noqa: N802
        nodes = [
            {
                "storagePath": f["name"],
                "uploadUrl": f"{self.url}/{f['artifactID']}/{f['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": f["artifactID"]},
            }
            for f in told["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": _edges(nodes)}}

    def _CommitArtifact(self, told: dict[str, Any]) -> Any:  # noqa: N802
        return {"commitArtifact": {"artifact": {"id": told["artifactID"], "digest": "digest"}}}

    def _ArtifactType(self, told: dict[str, Any]) -> Any:  # noqa: N802
        return {"project": {"artifact": None}}  # none is there before it is made

    def _ArtifactByID(self, told: dict[str, Any]) -> Any:  # noqa: N802
        return {"artifact": self._artifact(told["id"])}

    def _ArtifactMembershipByName(self, told: dict[str, Any]) -> Any:  # noqa: N802
        name = told["name"].partition(":")[0]
        place = {"__typename": "ArtifactSequence", "name": name, "project": self._project}
        membership = {"id": name, "versionIndex": 0, "createdAt": TIME, "aliases": []}
        found = {**membership, "artifactCollection": place, "artifact": self._artifact(name)}
        return {"project": {"artifactCollectionMembership": found}}

    def _UseArtifact(self, told: dict[str, Any]) -> Any:  # noqa: N802
        return {"useArtifact": {"artifact": {"id": told["artifactID"]}}}

    @property
    def _project(self) -> dict[str, Any]:
        ids = {"id": PROJECT_ID, "internalId": PROJECT_ID}
        return {**ids, "name": self.project, "entity": {"name": ENTITY}}

    def _artifact(self, name: str) -> dict[str, Any]:
        told = self.artifacts[name]
        return {
            "__typename": "Artifact",
            "id": name,
            "artifactSequence": {"__typename": "ArtifactSequence", "name": name, "project": self._project},
            "artifactType": {"name": told["artifactTypeName"]},
            "state": "COMMITTED",
            "versionIndex": 0,
            "digest": told["digest"],
            "createdAt": TIME,
            **dict.fromkeys(("description", "metadata", "historyStep", "commitHash", "updatedAt")),
            **dict.fromkeys(("ttlDurationSeconds", "size", "fileCount"), 0),
            "ttlIsInherited": False,
            "tags": [],
        }

    # ------------------------------------------------------------------ dashboards

    def _Viewer(self, told: dict[str, Any]) -> Any:  # noqa: N802
        return {"viewer": {"id": "user-id", "entity": ENTITY, "username": ENTITY, "flags": "{}"}}

    _GetDefaultEntity = _Viewer

    def _ProjectInternalId(self, told: dict[str, Any]) -> Any:  # noqa: N802
        return {"project": {"id": PROJECT_ID, "internalId": PROJECT_ID}}

    def _GetProjects(self, told: dict[str, Any]) -> Any:  # noqa: N802
        named = {"__typename": "Project", "id": PROJECT_ID, "name": self.project, "entityName": ENTITY}
        return {"models": _edges([{**named, "createdAt": TIME, "isBenchmark": False, "user": None}])}

    def _UpsertView2(self, told: dict[str, Any]) -> Any:  # noqa: N802
        project = {"id": PROJECT_ID, "name": told["projectName"], "entityName": told["entityName"]}
        kept = {key: told.get(key) for key in ("name", "displayName", "description", "type", "spec")}
        return {"upsertView": {"view": {"id": "view-id", **kept, "project": project}, "inserted": True}}

    _upsertView = _UpsertView2  # noqa: N815


class _Handler(BaseHTTPRequestHandler):
    server: Kept

    def log_message(self, *told: Any) -> None:
        """Say nothing."""

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        answer: Any = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            (operation,) = re.findall(r"\A\s*(?:query|mutation)\s+(\w+)", asked["query"]) or [asked["query"]]
            answer = {"data": self.server.answer(operation, asked.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], json.loads(body).get("files") or {})
        elif self.command == "PUT":
            self.server.uploads[self.path.lstrip("/")] = body
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _any  # noqa: N815


def _edges(nodes: list[Any]) -> dict[str, Any]:
    return {
        "edges": [{"node": node} for node in nodes],
        "pageInfo": {"hasNextPage": False, "endCursor": None},
    }


@contextmanager
def wandb_server(project: str = "tests") -> Iterator[Kept]:
    """Run a server that knows one project for the length of the block."""
    server = Kept(project)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
