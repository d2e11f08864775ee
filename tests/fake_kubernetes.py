"""A small API server of Kubernetes on this machine: real sockets, strict schemas, and pods that are processes here.

    with serve_kubernetes(tmp_path, monkeypatch) as cluster:     # KUBECONFIG leads to it
        cluster.images["tunesmith:test"] = folder_of_programs
        cluster.claims["runs"] = folder_that_pods_see

What is posted is refused unless the published schemas take it whole. Jobs, TrainJobs, RayJobs and Deployments are then
played by :mod:`fake_controllers`: a container's command is started as a process, with the variables that the manifest
gives it and none of this process. There is no scheduler, no image and no mount: an image is a folder of programs, an
empty volume a folder whose path takes the place of the mount's in variables, and a claim must be mounted where its
folder lies.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from fake_controllers import CONTROLLERS, Pod, Stop
from kubernetes_schemas import FILES, has_schema, problems_of

TOKEN = "planted-cluster-token-52d0"
_KINDS = {
    ("batch", "v1", "jobs"): "Job",
    ("apps", "v1", "deployments"): "Deployment",
    ("", "v1", "services"): "Service",
    ("trainer.kubeflow.org", "v1alpha1", "trainjobs"): "TrainJob",
    ("ray.io", "v1", "rayjobs"): "RayJob",
}
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)/namespaces/(?P<namespace>[^/]+)/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?P<log>/log)?"
)


class RefusedError(Exception):
    """An answer with a status that is no success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


class FakeKubernetes:
    """The cluster's state; everything that a test prepares or looks at is an attribute."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespaces = {"default", "team"}
        self.images: dict[str, Path] = {}
        self.claims: dict[str, Path] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.runtimes: dict[str, dict[str, Any]] = {}
        self.image_variables: dict[str, str] = {}
        # Takes the place of every empty volume called `cache`, so that what this machine knows is not found out anew.
        self.cache: Path | None = None
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.pods: dict[str, Pod] = {}
        self.requests: list[tuple[str, str]] = []
        self.answers: list[int] = []
        self.lock = threading.RLock()
        self._stops: dict[tuple[str, str, str], Stop] = {}

    def create(self, kind: str, namespace: str, manifest: dict[str, Any]) -> dict[str, Any]:
        problems = problems_of(manifest)
        if manifest.get("kind") != kind:
            problems.append(f"kind: {manifest.get('kind')}")
        if manifest["metadata"].get("namespace", namespace) != namespace:
            problems.append("metadata.namespace is another one")
        if problems:
            raise RefusedError(422, "Invalid", f"{kind} is invalid: {'; '.join(problems)}")
        name = manifest["metadata"]["name"]
        if kind == "TrainJob" and (runtime := manifest["spec"]["runtimeRef"]["name"]) not in self.runtimes:
            raise RefusedError(403, "Forbidden", f"the runtime {runtime} does not exist")
        with self.lock:
            if (kind, namespace, name) in self.objects:
                raise RefusedError(409, "AlreadyExists", f'{kind} "{name}" already exists')
            made = json.loads(json.dumps(manifest))
            made["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "namespace": namespace}
            self.objects[kind, namespace, name] = made
            if kind in CONTROLLERS:
                self._stops[kind, namespace, name] = Stop(CONTROLLERS[kind], self, made)
            return made

    def find(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        with self.lock:
            if (kind, namespace, name) not in self.objects:
                raise RefusedError(404, "NotFound", f'{kind} "{name}" not found')
            return json.loads(json.dumps(self.objects[kind, namespace, name]))

    def delete(self, kind: str, namespace: str, name: str, propagation: str) -> dict[str, Any]:
        found = self.find(kind, namespace, name)
        stop = self._stops.get((kind, namespace, name))

        def end() -> None:
            if stop is not None:
                stop.end()
            with self.lock:
                self.objects.pop((kind, namespace, name), None)

        with self.lock:
            self.objects[kind, namespace, name]["metadata"]["deletionTimestamp"] = now()
            if propagation != "Foreground":
                del self.objects[kind, namespace, name]
        threading.Thread(target=end, daemon=True).start()
        return found

    def listed(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        wanted = dict(one.split("=", 1) for one in selector.split(",") if one)
        with self.lock:
            pods = [pod for pod in self.pods.values() if pod.namespace == namespace]
            return [pod.to_json() for pod in pods if wanted.items() <= pod.labels.items()]

    def close(self) -> None:
        for stop in self._stops.values():
            stop.end(patience_seconds=0.5)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: FakeKubernetes

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, work: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.cluster.requests.append((self.command, parts.path))
        code, found = 200, {}
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise RefusedError(401, "Unauthorized", "Unauthorized")
            match = _PATH.fullmatch(parts.path)
            if match is None:
                raise RefusedError(404, "NotFound", "the server could not find the requested resource")
            query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
            code, found = work(match, query, json.loads(body) if body else {})
        except RefusedError as error:
            code, found = error.code, {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
            found |= {"message": error.message, "reason": error.reason, "code": error.code}
        self.cluster.answers.append(code)
        content = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(found, bytes) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _kind(self, match: re.Match[str]) -> str:
        kind = _KINDS.get((match["group"] or "", match["version"], match["plural"]))
        if kind is None or (kind in FILES and not has_schema(kind)):
            raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        if match["namespace"] not in self.cluster.namespaces:
            raise RefusedError(404, "NotFound", f'namespaces "{match["namespace"]}" not found')
        return kind

    def _get(self, match: re.Match[str], query: dict[str, str], _: Any) -> tuple[int, Any]:
        if match["plural"] == "secrets":
            raise RefusedError(403, "Forbidden", "nobody here may read Secrets")
        if match["plural"] == "pods" and match["log"]:
            pod = self.cluster.pods.get(match["name"])
            if pod is None:
                raise RefusedError(404, "NotFound", f'pods "{match["name"]}" not found')
            if query.get("container") != pod.container["name"] or not pod.has_begun:
                raise RefusedError(400, "BadRequest", "container is waiting to start, or there is none of that name")
            return 200, pod.log.read_bytes()
        if match["plural"] == "pods":
            pods = self.cluster.listed(match["namespace"], query.get("labelSelector", ""))
            return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}
        return 200, self.cluster.find(self._kind(match), match["namespace"], match["name"])

    def _post(self, match: re.Match[str], query: dict[str, str], body: Any) -> tuple[int, Any]:
        if query.get("fieldValidation") != "Strict":
            raise RefusedError(400, "BadRequest", "this server wants to be asked strictly")
        return 201, self.cluster.create(self._kind(match), match["namespace"], body)

    def _delete(self, match: re.Match[str], query: dict[str, str], body: Any) -> tuple[int, Any]:
        wanted = query.get("propagationPolicy") or body.get("propagationPolicy") or "Background"
        return 200, self.cluster.delete(self._kind(match), match["namespace"], match["name"], wanted)


@contextmanager
def serve_kubernetes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """A cluster at a port of the loopback address, with a kubeconfig that leads to it."""
    pytest.importorskip("kubernetes")
    folder.mkdir(parents=True, exist_ok=True)
    cluster = FakeKubernetes(folder)
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {"token": TOKEN}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "current-context": "here",
    }
    # Not among the files in which tests look for secrets: it is where the cluster's own lies.
    place = folder / f"kubeconfig-{time.monotonic_ns()}"
    place.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(place))
    try:
        yield cluster
    finally:
        cluster.close()
        server.shutdown()
        server.server_close()
        thread.join()
