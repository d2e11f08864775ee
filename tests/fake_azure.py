"""A small Azure on this machine: the Resource Manager, identity, Log Analytics, and what Azure ML's SDK asks for.

with serve_azure(tmp_path, monkeypatch) as azure:    # the environment leads azure-identity and azure-ai-ml there

Resources are kept as they were put. Executions of Container Apps jobs are real processes. Whoever asks without the
token that identity gave is turned away; so is a body with a property that is none, for what `strict` looks at.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/lab"
APPS = f"{GROUP}/providers/Microsoft.App"
WORKSPACE = f"{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/tuning"
ENVIRONMENT = f"{APPS}/managedEnvironments/lab-env"
LOG_WORKSPACE = "99999999-8888-7777-6666-555555555555"
# In it the signature of a log's address, which is a key.
LOG_KEY = "planted-signature"
_IDENTITY_HEADER = "identity-header"
_EXECUTIONS = re.compile(
    r"(?P<job>.*/Microsoft\.App/jobs/[^/]+)/executions(/(?P<name>[^/]+)(?P<stop>/stop)?)?", re.IGNORECASE
)
_PAGE = 2


@dataclass
class Execution:
    """One execution of a job: what was asked for, its process, and how often it was started again."""

    name: str
    template: dict[str, Any]
    retries: int
    log: Path
    process: subprocess.Popen[bytes] | None = None
    status: str = "Running"

    def start(self) -> None:
        container = self.template["containers"][0]
        plain = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                container["command"],
                env={**os.environ, **plain, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def look(self) -> str:
        """Its status by now; a process that failed is started again as often as the job says."""
        code = None if self.process is None else self.process.poll()
        if self.status == "Running" and code is not None:
            if code and self.retries:
                self.retries -= 1
                self.start()
            else:
                self.status = "Failed" if code else "Succeeded"
        return self.status

    def stop(self) -> None:
        if self.look() == "Running":
            self.status = "Stopped"
            if self.process is not None:
                os.killpg(self.process.pid, signal.SIGTERM)


@dataclass
class FakeAzure:
    """What there is, what was asked, and how it misbehaves.

    Attributes:
        resources: Bodies by their path in small letters.
        executions: By the path of their job in small letters, oldest first.
        asked: Method, path and body of every request that had a token.
        runs_processes: Whether an execution's command is run; else it stays as it is.
        loses_answers: Paths whose next answer is lost, after what they ask for was done.
        pages_elsewhere: Where lists go on; None: here.
        log_key: The signature with which logs are handed out.
        realm: Tokens of another one are turned away.
    """

    url: str
    folder: Path
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    executions: dict[str, list[Execution]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    runs_processes: bool = False
    loses_answers: set[str] = field(default_factory=set)
    pages_elsewhere: str | None = None
    log_key: str = LOG_KEY
    realm: str = "lab"

    def put(self, path: str, body: dict[str, Any]) -> None:
        self.resources[path.lower()] = {"id": path, "name": path.rpartition("/")[2], **body}

    def bodies(self, method: str, ending: str) -> list[Any]:
        """What was sent by a method to paths that end like this."""
        return [body for one, path, body in self.asked if one == method and path.endswith(ending)]


@contextmanager
def serve_azure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAzure]:
    """Serve until the block ends, with a Container Apps environment and a workspace."""
    azure = FakeAzure("", folder)

    class Handler(_Handler):
        fake = azure

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # Azure's libraries send their token over TLS alone.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(folder))
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    azure.url = f"https://127.0.0.1:{server.server_port}"
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(_certificate(folder)))
    azure.put(
        ENVIRONMENT,
        {
            "location": "northeurope",
            "properties": {
                "appLogsConfiguration": {
                    "destination": "log-analytics",
                    "logAnalyticsConfiguration": {"customerId": LOG_WORKSPACE},
                }
            },
        },
    )
    azure.put(WORKSPACE, {"location": "northeurope", "properties": {"discoveryUrl": f"{azure.url}/discovery"}})
    for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_SUBSCRIPTION_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(folder / "no-az"))
    # azure-identity's chain, through the managed identity of an App Service.
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{azure.url}/identity")
    monkeypatch.setenv("IDENTITY_HEADER", _IDENTITY_HEADER)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    # Where azure-ai-ml looks for the Resource Manager.
    monkeypatch.setenv("AZUREML_DEV_URL_MFE", azure.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield azure
    finally:
        server.shutdown()
        server.server_close()
        for execution in (one for group in azure.executions.values() for one in group):
            if execution.process is not None and execution.process.poll() is None:
                os.killpg(execution.process.pid, signal.SIGKILL)
                execution.process.wait()


def _certificate(folder: Path) -> Path:
    """A certificate for this machine that signs itself, with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = folder / "azure.pem"
    if path.exists():
        return path
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


class _Handler(BaseHTTPRequestHandler):
    fake: FakeAzure

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PATCH(self) -> None:
        self._serve("PUT")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        parts = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = parts.path.rstrip("/")
        if path == "/identity":
            assert self.headers["X-IDENTITY-HEADER"] == _IDENTITY_HEADER
            resource = parse_qs(parts.query)["resource"][0]
            self._end(200, _token(self.fake.realm, resource))
            return
        if path.startswith("/logs/"):
            shown = self.fake.logs[path] if f"sig={self.fake.log_key}" in parts.query else None
            self._end(200 if shown is not None else 403, shown if shown is not None else "no")
            return
        if path == "/discovery":
            self._end(200, {"api": self.fake.url, "history": self.fake.url})
            return
        if _realm(self.headers.get("Authorization") or "") != self.fake.realm:
            self._end(401, _error("InvalidAuthenticationToken", "no token"))
            return
        body = json.loads(content) if content else None
        self.fake.asked.append((method, path, body))
        status, answer = _answer(self.fake, method, path, parse_qs(parts.query), body)
        if path in self.fake.loses_answers:
            self.fake.loses_answers.remove(path)
            self.close_connection = True
            return
        self._end(status, answer)

    def _end(self, status: int, answer: Any) -> None:
        text = (answer if isinstance(answer, str) else json.dumps(answer)).encode() if answer is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def _token(realm: str, resource: str) -> dict[str, Any]:
    claims = {"tid": "a-tenant", "aud": resource, "realm": realm, "exp": 4_000_000_000}
    coded = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    token = f"eyJhbGciOiJub25lIn0.{coded}.c2ln"
    return {"access_token": token, "expires_on": "4000000000", "resource": resource, "token_type": "Bearer"}


def _realm(header: str) -> str | None:
    """Who gave the token of a request; None where there is none."""
    parts = header.removeprefix("Bearer ").split(".")
    if len(parts) != 3:
        return None
    realm: str = json.loads(base64.urlsafe_b64decode(parts[1] + "==="))["realm"]
    return realm


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def _answer(azure: FakeAzure, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
    for serves in (_apps, _logs, _history, _jobs_of_a_workspace):
        answered = serves(azure, method, path, query, body)
        if answered is not None:
            return answered
    return _resource(azure, method, path, body)


def _resource(azure: FakeAzure, method: str, path: str, body: Any) -> tuple[int, Any]:
    """Anything else that is put is kept, and is made at once."""
    key = path.lower()
    if method == "PUT":
        fresh = key not in azure.resources
        properties = {**(body.get("properties") or {}), "provisioningState": "Succeeded"}
        if "/onlineendpoints/" in key and "/deployments/" not in key:
            properties["scoringUri"] = f"https://{path.rpartition('/')[2]}.northeurope.inference.ml.azure.com/"
        if "/serverlessendpoints/" in key:
            properties["inferenceEndpoint"] = {
                "uri": f"https://{path.rpartition('/')[2]}.northeurope.models.ai.azure.com",
                "headers": {},
            }
            properties["authMode"] = "Key"
        if "/marketplacesubscriptions/" in key:
            properties["marketplacePlan"] = {"publisherId": "a", "offerId": "b", "planId": "c"}
            properties["marketplaceSubscriptionStatus"] = "Subscribed"
        azure.put(path, {**body, "properties": properties})
        return 201 if fresh else 200, azure.resources[key]
    if method == "DELETE":
        gone = [one for one in azure.resources if one == key or one.startswith(f"{key}/")]
        for one in gone:
            del azure.resources[one]
        return 204, None
    if method == "GET" and key in azure.resources:
        return 200, azure.resources[key]
    if method == "GET" and len(key.partition("/providers/")[2].split("/")) % 2 == 0:
        # After the provider's name stand kind and name in turn: this is a kind.
        inner = {one: body for one, body in azure.resources.items() if one.startswith(f"{key}/")}
        return 200, {"value": [body for one, body in inner.items() if "/" not in one.removeprefix(f"{key}/")]}
    return 404, _error("ResourceNotFound", f"{path} is not there")


def _apps(azure: FakeAzure, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any] | None:
    """Starting, listing, looking at and stopping executions of Container Apps jobs."""
    job = azure.resources.get(path.removesuffix("/start").lower())
    if method == "POST" and path.endswith("/start") and job is not None:
        group = azure.executions.setdefault(path.removesuffix("/start").lower(), [])
        name = f"{job['name']}-{len(group):07d}"
        retries = job["properties"]["configuration"]["replicaRetryLimit"]
        execution = Execution(name, body or job["properties"]["template"], retries, azure.folder / f"{name}.log")
        execution.log.touch()
        if azure.runs_processes:
            execution.start()
        group.append(execution)
        return 200, {"name": name, "id": f"{path.removesuffix('/start')}/executions/{name}"}
    match = _EXECUTIONS.fullmatch(path)
    if match is None:
        return None
    group = azure.executions.get(match["job"].lower(), [])
    if match["name"] is None:
        first = int(query.get("first", ["0"])[0])
        more = f"{azure.pages_elsewhere or azure.url}{path}?first={first + _PAGE}&api-version=1"
        page = [_execution(match["job"], one) for one in group[first : first + _PAGE]]
        return 200, {"value": page, **({"nextLink": more} if first + _PAGE < len(group) else {})}
    found = next((one for one in group if one.name == match["name"]), None)
    if found is None:
        return 404, _error("JobExecutionNotFound", "there is none")
    if match["stop"]:
        found.stop()
        return 202, None
    return 200, _execution(match["job"], found)


def _execution(job: str, execution: Execution) -> dict[str, Any]:
    properties = {"status": execution.look(), "template": execution.template}
    return {"id": f"{job}/executions/{execution.name}", "name": execution.name, "properties": properties}


def _logs(azure: FakeAzure, method: str, path: str, _query: dict[str, list[str]], body: Any) -> tuple[int, Any] | None:
    """What Log Analytics says to the one query that is asked here."""
    if path != f"/v1/workspaces/{LOG_WORKSPACE}/query" or method != "POST":
        return None
    wanted = re.search(r"startswith '([^']+)'", body["query"])
    assert wanted is not None
    rows = [
        [line]
        for group in azure.executions.values()
        for one in group
        if one.name == wanted[1]
        for line in one.log.read_text().splitlines()
    ]
    return 200, {"tables": [{"name": "PrimaryResult", "columns": [{"name": "Log_s", "type": "string"}], "rows": rows}]}


def _jobs_of_a_workspace(
    azure: FakeAzure, method: str, path: str, _query: dict[str, list[str]], body: Any
) -> tuple[int, Any] | None:
    """Jobs of Azure ML; a test says how each goes on by its status."""
    key = path.lower()
    if f"{WORKSPACE.lower()}/jobs/" not in key:
        return None
    if method == "PUT":
        azure.put(path, {**body, "properties": {"services": {}, **body["properties"], "status": "Running"}})
        return 201, azure.resources[key]
    if method == "POST" and key.endswith("/cancel"):
        azure.resources[key.removesuffix("/cancel")]["properties"]["status"] = "Canceled"
        return 200, None
    return None


def _history(
    azure: FakeAzure, _method: str, path: str, _query: dict[str, list[str]], _body: Any
) -> tuple[int, Any] | None:
    """What the service of runs says of a job: where its logs are, and which steps it has."""
    if not path.startswith("/history/"):
        return None
    if path.endswith("/details"):
        name = path.split("/")[-2]
        files = {
            f"user_logs/{one.rpartition('/')[2]}": f"{azure.url}{one}?sig={LOG_KEY}"
            for one in azure.logs
            if f"/{name}/" in one
        }
        return 200, {
            "runId": name,
            "status": "Running",
            "logFiles": {**files, "system_logs/lifecycler.log": "http://127.0.0.1:9/"},
        }
    return 200, {"value": []}
