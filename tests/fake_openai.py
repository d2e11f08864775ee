"""A service on this machine that fine-tunes as OpenAI's does, as far as its contract goes: nothing is trained.

    with serve_openai(contract) as service:     # its address is service.url, its key service.key
        ...
    assert service.problems == []               # what did not fit the contract, of requests and of its own answers

A job goes one turn further each time it is looked at: its files are read, it is queued, it runs in steps with events
and checkpoints, it ends. ``service.most_turns`` holds it back, ``service.habits`` are ways in which services differ.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

from loopback_hub import serving
from openapi import Contract

KEY = "sk-planted-5d1e77aa90"
STEPS = 6
FEWEST_ROWS = 10
Habit = Literal["no metadata", "no filter", "no pause", "base64 results", "lost answer", "busy", "gone results"]
_JOB_PATH = re.compile(r"/fine_tuning/jobs/([^/]+)(?:/(\w+))?")
_CONTENT_NAMES = ("step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy")


@dataclass(eq=False)
class Refusal(Exception):
    """An answer in the contract's form of errors."""

    status: int
    code: str | None
    message: str
    param: str | None = None
    kind: str = "invalid_request_error"


@dataclass
class FakeOpenAi:
    """What the service has, and what it was asked."""

    contract: Contract
    url: str = ""
    key: str = KEY
    habits: frozenset[Habit] = frozenset()
    most_turns: int = 1000
    fails_at_step: int | None = None
    problems: list[str] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    checkpoints: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def number(self) -> int:
        return next(self._numbers)

    def lines(self, file_id: str) -> list[dict[str, Any]]:
        """The rows of a file."""
        text = self.contents[file_id].decode("utf-8-sig")
        return [json.loads(line) for line in text.splitlines()]

    # --- files

    def add_file(self, content: bytes, name: str, purpose: str) -> dict[str, Any]:
        identifier = f"file-{self.number():06d}"
        self.contents[identifier] = content
        self.files[identifier] = {
            "id": identifier,
            "object": "file",
            "bytes": len(content),
            "created_at": 1_790_000_000 + self.number(),
            "filename": name,
            "purpose": purpose,
            # It is read when it is looked at for the first time.
            "status": "uploaded" if purpose == "fine-tune" else "processed",
        }
        return self.files[identifier]

    def take_upload(self, parts: list[str], content: Any) -> dict[str, Any]:
        if not parts:
            identifier = f"upload_{self.number():06d}"
            self.uploads[identifier] = {
                "id": identifier,
                "object": "upload",
                "created_at": 1_790_000_000,
                "expires_at": 1_790_003_600,
                "status": "pending",
                **{name: content[name] for name in ("bytes", "filename", "purpose")},
            }
            return self.uploads[identifier]
        upload = self.uploads[parts[0]]
        if parts[1] == "parts":
            identifier = f"part_{self.number():06d}"
            self.parts[identifier] = content["data"]
            return {"id": identifier, "object": "upload.part", "created_at": 1_790_000_000, "upload_id": parts[0]}
        whole = b"".join(self.parts[one] for one in content["part_ids"])
        if len(whole) != upload["bytes"]:
            raise Refusal(400, "invalid_upload", "the parts are not as many bytes as were announced")
        upload["status"] = "completed"
        upload["file"] = self.add_file(whole, upload["filename"], upload["purpose"])
        return upload

    # --- jobs

    def create_job(self, body: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        if body["model"].startswith("unknown"):
            raise Refusal(400, "model_not_found", f"The model {body['model']} does not exist", "model")
        for name in ("training_file", "validation_file"):
            if body.get(name) is not None and body[name] not in self.files:
                raise Refusal(400, "file_not_found", f"no such file: {body[name]}", name)
        identifier = f"ftjob-{self.number():06d}"
        method = body.get("method", {"type": "supervised"})
        self.jobs[identifier] = {
            "id": identifier,
            "object": "fine_tuning.job",
            "created_at": 1_790_000_000 + self.number(),
            "finished_at": None,
            "model": body["model"],
            "fine_tuned_model": None,
            "organization_id": "org-test",
            "status": "validating_files",
            "training_file": body["training_file"],
            "validation_file": body.get("validation_file"),
            "result_files": [],
            "hyperparameters": {"n_epochs": method.get(method["type"], {}).get("hyperparameters", {}).get("n_epochs")},
            "trained_tokens": None,
            "seed": body.get("seed", 0),
            "error": None,
            "method": method,
            "metadata": None if "no metadata" in self.habits else body.get("metadata"),
        }
        if self.jobs[identifier]["hyperparameters"]["n_epochs"] is None:
            self.jobs[identifier]["hyperparameters"] = {}
        self.turns[identifier] = 0
        self.events[identifier], self.checkpoints[identifier] = [], []
        self._tell(identifier, f"Created fine-tuning job: {identifier}")
        self._tell(identifier, f"Validating training file: {body['training_file']}")
        return self.jobs[identifier]

    def turn(self, identifier: str) -> None:
        """Let a job go on by one turn."""
        job = self.jobs[identifier]
        if job["status"] in ("succeeded", "failed", "cancelled", "paused") or self.turns[identifier] >= self.most_turns:
            return
        self.turns[identifier] += 1
        if job["status"] == "validating_files":
            wrong = self._wrong_rows(job)
            if wrong:
                self._fail(identifier, "invalid_training_file", wrong, "training_file")
                return
            job["status"] = "queued"
            self._tell(identifier, "Files validated, moving job to queued state")
        elif job["status"] == "queued":
            job["status"] = "running"
            self._tell(identifier, "Fine-tuning job started")
        else:
            self._step(identifier)

    def _step(self, identifier: str) -> None:
        job = self.jobs[identifier]
        step = 1 + sum(event["type"] == "metrics" for event in self.events[identifier])
        if self.fails_at_step == step:
            self._tell(identifier, "The job failed due to an internal error.", level="error")
            self._fail(identifier, "server_error", f"it broke, and {self.key} was printed", None)
            return
        if step <= STEPS:
            data: dict[str, Any] = {"step": step, "total_steps": STEPS, "train_loss": 3.0 / step}
            data["train_mean_token_accuracy"] = 0.1 * step
            if step == STEPS:
                data["full_valid_loss"], data["full_valid_mean_token_accuracy"] = 0.75, 0.8
            self._tell(identifier, f"Step {step}/{STEPS}: training loss={3.0 / step:.2f}", data)
            if step in (STEPS // 2, STEPS):
                self._checkpoint(identifier, step)
            return
        name = f"ft:{job['model']}:org-test::{identifier[-4:]}"
        rows = [",".join(_CONTENT_NAMES), *(f"{one},{3.0 / one:.4f},{0.1 * one:.2f},," for one in range(1, STEPS + 1))]
        content = ("\n".join(rows) + "\n").encode()
        if "base64 results" in self.habits:
            content = base64.b64encode(content)
        result = self.add_file(content, "../../step_metrics.csv", "fine-tune-results")
        job |= {"fine_tuned_model": name, "trained_tokens": 1234, "finished_at": 1_790_009_999}
        job |= {"result_files": [result["id"]], "status": "succeeded"}
        if "gone results" in self.habits:
            del self.contents[result["id"]]
        self._tell(identifier, f"New fine-tuned model created: {name}")
        self._tell(identifier, "The job has successfully completed")

    def ask(self, identifier: str, what: str) -> dict[str, Any]:
        """Cancel, pause or resume."""
        job = self.jobs[identifier]
        if what in ("pause", "resume") and "no pause" in self.habits:
            raise Refusal(404, None, f"Invalid URL (POST /v1/fine_tuning/jobs/{identifier}/{what})")
        possible = {"cancel": ("validating_files", "queued", "running", "paused"), "pause": ("running",)}
        if job["status"] not in possible.get(what, ("paused",)):
            raise Refusal(400, "invalid_state", f"a job that is {job['status']} cannot {what}")
        job["status"] = {"cancel": "cancelled", "pause": "paused", "resume": "queued"}[what]
        self._tell(identifier, f"The job was asked to {what}", level="warn" if what == "pause" else "info")
        return job

    def _wrong_rows(self, job: dict[str, Any]) -> str | None:
        rows = self.lines(job["training_file"])
        for one in (job["training_file"], job["validation_file"]):
            for number, row in enumerate(self.lines(one) if one else [], start=1):
                self.problems += [f"line {number}: {problem}" for problem in wrong_in_row(self.contract, row, job)]
        if len(rows) < FEWEST_ROWS:
            return f"Training file has {len(rows)} example(s), but must have at least {FEWEST_ROWS} examples"
        return None

    def _fail(self, identifier: str, code: str, message: str, param: str | None) -> None:
        self.jobs[identifier]["error"] = {"code": code, "message": message, "param": param}
        self.jobs[identifier]["status"] = "failed"

    def _tell(self, identifier: str, message: str, data: dict[str, Any] | None = None, level: str = "info") -> None:
        event: dict[str, Any] = {
            "id": f"ftevent-{self.number():06d}",
            "object": "fine_tuning.job.event",
            # Several within one second, as there are.
            "created_at": 1_790_000_000 + len(self.events[identifier]) // 3,
            "level": level,
            "message": message,
            "type": "message" if data is None else "metrics",
        }
        self.events[identifier].append(event if data is None else {**event, "data": data})

    def _checkpoint(self, identifier: str, step: int) -> None:
        name = f"ft:{self.jobs[identifier]['model']}:org-test::{identifier[-4:]}:ckpt-step-{step}"
        one = {
            "id": f"ftckpt_{self.number():06d}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": 1_790_000_000 + step,
            "fine_tuned_model_checkpoint": name,
            "fine_tuning_job_id": identifier,
            "metrics": {"step": step, "train_loss": 3.0 / step},
            "step_number": step,
        }
        self.checkpoints[identifier].append(one)


def wrong_in_row(contract: Contract, row: dict[str, Any], job: dict[str, Any]) -> list[str]:
    """What is wrong with a row by the rules for data, in words."""
    if job["method"]["type"] == "dpo":
        if set(row) != {"input", "preferred_output", "non_preferred_output"}:
            return [f"keys of a pair: {sorted(row)}"]
        answers = [*row["preferred_output"], *row["non_preferred_output"]]
        found = [] if len(answers) == 2 and all(one["role"] == "assistant" for one in answers) else ["not two answers"]
        return [*found, *_wrong_messages(contract, [*row["input"]["messages"], *answers])]
    found = [] if set(row) <= {"messages", "tools"} else [f"keys of a conversation: {sorted(row)}"]
    if not any(message["role"] == "assistant" for message in row["messages"]):
        found.append("example_missing_assistant_message")
    for tool in row.get("tools", []):
        found += contract.problems_of_named("ChatCompletionTool", tool)
    return [*found, *_wrong_messages(contract, row["messages"])]


def _wrong_messages(contract: Contract, messages: list[dict[str, Any]]) -> list[str]:
    found = []
    for message in messages:
        plain = {key: value for key, value in message.items() if key != "weight"}
        if message.get("weight", 1) not in (0, 1) or ("weight" in message and message["role"] != "assistant"):
            found.append(f"weight {message['weight']}")
        found += contract.problems_of_named("ChatCompletionRequestMessage", plain)
    return found


@contextmanager
def serve_openai(contract: Contract, *, prefix: str = "/v1") -> Iterator[FakeOpenAi]:
    """Serve until the block ends; Azure's older paths have the prefix ``/openai``."""
    service = FakeOpenAi(contract)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with service._lock:
                status, content = respond(service, self.command, self.path, dict(self.headers), body, prefix)
            if status == 0:
                # The answer is lost on its way.
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("x-request-id", f"req_{service.number():06d}")
            self.end_headers()
            self.wfile.write(content)

    with serving(Handler) as url:
        service.url = f"{url}{prefix}"
        yield service


def respond(
    service: FakeOpenAi, method: str, target: str, headers: dict[str, str], body: bytes, prefix: str
) -> tuple[int, bytes]:
    """The status and content of an answer; status 0 for one that is lost."""
    raw_path, _, query = target.partition("?")
    lower = {name.lower(): value for name, value in headers.items()}
    service.asked.append((method, target, lower))
    service.received.append(body)
    path = raw_path.removeprefix(prefix)
    operation = service.contract.find(method, path)
    try:
        if lower.get("authorization") != f"Bearer {service.key}" and lower.get("api-key") != service.key:
            said = lower.get("authorization", lower.get("api-key", "")).removeprefix("Bearer ")
            raise Refusal(401, "invalid_api_key", f"Incorrect API key provided: {said}", kind="authentication_error")
        if operation is None or not raw_path.startswith(prefix):
            raise Refusal(404, None, f"Invalid URL ({method} {raw_path})")
        service.problems += service.contract.problems_of_query(operation, query)
        content = _content_of(lower.get("content-type", ""), body)
        if operation.request is not None:
            shown = {key: "" if isinstance(value, bytes) else value for key, value in content.items()}
            # Azure's addition to the contract, and a part of the form that is no field.
            shown.pop("trainingType", None)
            shown.pop("file name", None)
            service.problems += service.contract.problems_of_request(operation, shown)
        if "busy" in service.habits and method == "POST" and path == "/fine_tuning/jobs":
            raise Refusal(429, "rate_limit_exceeded", "too many jobs", kind="rate_limit_error")
        answer = _act(service, method, unquote(path), dict(parse_qsl(query)), content)
    except Refusal as refusal:
        error = {"message": refusal.message, "type": refusal.kind, "param": refusal.param, "code": refusal.code}
        service.problems += service.contract.problems_of_named("ErrorResponse", {"error": error})
        return refusal.status, json.dumps({"error": error}).encode()
    if isinstance(answer, bytes):
        return 200, answer
    # `paused` is in the contract's own example, and in no list of it.
    checked = json.loads(json.dumps(answer).replace('"status": "paused"', '"status": "queued"'))
    assert operation is not None
    service.problems += service.contract.problems_of_answer(operation.answer, checked)
    if "lost answer" in service.habits and method == "POST" and path == "/fine_tuning/jobs":
        return 0, b""
    return 200, json.dumps(answer).encode()


def _act(service: FakeOpenAi, method: str, path: str, query: dict[str, str], content: dict[str, Any]) -> Any:
    parts = path.strip("/").split("/")
    if parts[0] == "files":
        return _files(service, method, parts[1:], query, content)
    if parts[0] == "uploads":
        return service.take_upload(parts[1:], content)
    match = _JOB_PATH.fullmatch(path)
    if match is None:
        if path != "/fine_tuning/jobs":
            raise Refusal(404, None, f"Invalid URL ({method} {path})")
        return service.create_job(content) if method == "POST" else _jobs(service, query)
    identifier, what = match.groups()
    if identifier not in service.jobs:
        raise Refusal(404, "job_not_found", f"Could not find fine tune: {identifier}")
    if what == "events":
        return _page(service.events[identifier][::-1], query, 20)
    if what == "checkpoints":
        return _page(service.checkpoints[identifier][::-1], query, 10)
    if what is not None:
        return service.ask(identifier, what)
    service.turn(identifier)
    return service.jobs[identifier]


def _files(service: FakeOpenAi, method: str, parts: list[str], query: dict[str, str], content: dict[str, Any]) -> Any:
    if not parts and method == "POST":
        return service.add_file(content["file"], content["file name"], content["purpose"])
    if not parts:
        found = [one for one in service.files.values() if query.get("purpose", one["purpose"]) == one["purpose"]]
        page = _page(found[::-1], query, 10_000)
        ids = [one["id"] for one in page["data"]]
        return {**page, "first_id": ids[0] if ids else "", "last_id": ids[-1] if ids else ""}
    file = service.files.get(parts[0])
    if file is None or (parts[1:] and parts[0] not in service.contents):
        raise Refusal(404, "file_not_found", f"No such File object: {parts[0]}", "id")
    if method == "DELETE":
        del service.files[parts[0]]
        return {"id": parts[0], "object": "file", "deleted": True}
    if parts[1:] == ["content"]:
        return service.contents[parts[0]]
    shown = dict(file)
    if file["status"] == "uploaded":
        broken = service.contents[parts[0]][:1] not in (b"{", b"\xef")
        file["status"] = "error" if broken else "processed"
        shown = file
    return shown


def _jobs(service: FakeOpenAi, query: dict[str, str]) -> Any:
    wanted = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[")}
    if wanted and "no filter" in service.habits:
        raise Refusal(400, "unknown_parameter", "Unknown parameter: metadata", "metadata")
    found = [one for one in service.jobs.values() if "no metadata" in service.habits or _has(one, wanted)]
    return _page(found[::-1], query, 20)


def _has(job: dict[str, Any], wanted: dict[str, str]) -> bool:
    return wanted.items() <= (job["metadata"] or {}).items()


def _page(found: list[dict[str, Any]], query: dict[str, str], usual: int) -> dict[str, Any]:
    """A page of a list; the newest come first. Pages are short, so that there are several."""
    ids = [one["id"] for one in found]
    start = ids.index(query["after"]) + 1 if "after" in query else 0
    limit = min(int(query.get("limit", usual)), 7)
    return {"object": "list", "data": found[start : start + limit], "has_more": start + limit < len(found)}


def _content_of(kind: str, body: bytes) -> dict[str, Any]:
    if kind.startswith("multipart/form-data"):
        return _form(body, kind.partition("boundary=")[2].strip('"'))
    found: dict[str, Any] = json.loads(body) if body else {}
    return found


def _form(body: bytes, boundary: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for piece in body.split(b"--" + boundary.encode())[1:-1]:
        head, _, value = piece[2:-2].partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]+)"', head)
        file_name = re.search(rb'filename="([^"]+)"', head)
        assert name is not None
        fields[name[1].decode()] = value if file_name else value.decode()
        if file_name and name[1] == b"file":
            fields["file name"] = file_name[1].decode()
    return fields
