"""What the pages of the service show in pictures: real work, lists that are long, and a project with nothing in it.

A long list is put into the database of a running service directly; making two hundred jobs by training them would take
a day.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from live_service import LiveService
from service_rows import Putter
from sqlalchemy import select

from tunesmith.service.auth.keys import make_key
from tunesmith.service.choices import known_choices, settings_of
from tunesmith.service.context import Context, open_context
from tunesmith.service.db.tables.accounts import API_KEYS, MEMBERS, USERS
from tunesmith.service.db.tables.evaluations import EVALUATIONS
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.db.tables.inference import BATCHES, DEPLOYMENTS
from tunesmith.service.db.tables.jobs import JOB_CHECKPOINTS, JOB_EVENTS, JOBS
from tunesmith.service.db.tables.keeping import AUDIT, DELIVERIES, WEBHOOKS
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.ids import new_id, short_id

MANY = 200
QUEUES = {
    "shipping": ("Where is my parcel?", "The tracking page has not moved for three days."),
    "billing": ("I was charged twice.", "Please send me the invoice for May."),
    "returns": ("How do I send this back?", "The shoes are too small."),
}
_PEOPLE = ("Ada Lovelace", "Grace Hopper", "Katherine Johnson")
_EVENTS = ["fine_tuning.job.failed", "fine_tuning.job.succeeded", "batch.completed"]
_LONG_NAME = "conversations-of-the-help-desk-in-the-second-quarter-without-names-and-addresses"
_JOB_SECONDS = 900.0
_ENDED = ("succeeded", "failed", "completed", "cancelled", "expired")


@dataclass(frozen=True)
class Work:
    """What was really done.

    Attributes:
        pages: Paths of pages, by the names of their pictures.
        model: The tuned model.
        job_id: The job that made it.
    """

    pages: dict[str, str]
    model: str
    job_id: str


@contextmanager
def receiver() -> Iterator[str]:
    """The address of a program that takes whatever it is told."""

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the library's name)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    thread = threading.Thread(target=server.serve_forever, name="receiver")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/tunesmith"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def work(service: LiveService, folder: Path, model: str, hook: str, options: dict[str, Any]) -> Work:
    """Train a model, deploy it, ask it many questions in a batch, and let a program be told."""
    rows = folder / "tickets.jsonl"
    rows.write_text("".join(json.dumps(row(number)) + "\n" for number in range(60)), encoding="utf-8")
    with service.client() as client, service.client("/tunesmith/v1") as own:
        webhook = _told(own.post("/webhooks", json={"url": hook, "events": _EVENTS}))
        file_id = _upload(client, rows, "fine-tune")
        body = {"model": model, "training_file": file_id, "suffix": "ticket-router", "tunesmith": options}
        job = _ended(client, "/fine_tuning/jobs", _told(client.post("/fine_tuning/jobs", json=body)))
        tuned = job["fine_tuned_model"]
        for label, kind in (("production", "stage"), ("best-so-far", "alias")):
            _told(own.post(f"/registry/{tuned}/labels", json={"label": label, "kind": kind}))
        _told(own.post("/deployments", json={"name": "ticket-router", "model": tuned}))
        _told(own.post("/keys", json={"name": "help desk", "scope": "inference"}))
        _people(own)
        batch = _batch(client, folder, "ticket-router")
        asked = {"model": tuned, "file": file_id, "rows": 12, "max_new_tokens": 8}
        evaluation = _ended(own, "/evaluations", _told(own.post("/evaluations", json=asked)))
        _told(own.post(f"/webhooks/{webhook['id']}/test"))
        project = _told(own.get("/projects"))["data"][0]["id"]
        _told(own.post(f"/projects/{project}", json={"budget": 50.0, "jobs_at_once": 2, "tokens_per_minute": 200_000}))
    pages = {
        "overview": "/ui",
        "catalog": "/ui/catalog",
        "data": "/ui/files",
        "jobs": "/ui/jobs",
        "job": f"/ui/jobs/{job['id']}",
        "new-job": f"/ui/jobs/new?file={file_id}",
        "models": "/ui/models",
        "model": f"/ui/models/{tuned}",
        "playground": f"/ui/playground?left={tuned}",
        "deployments": "/ui/deployments",
        "deployment": "/ui/deployments/ticket-router",
        "batches": "/ui/batches",
        "batch": f"/ui/batches/{batch}",
        "evaluations": "/ui/evaluations",
        "evaluation": f"/ui/evaluations/{evaluation['id']}",
        "usage": "/ui/usage",
        "project": "/ui/project",
        "webhooks": "/ui/webhooks",
        "webhook": f"/ui/webhooks/{webhook['id']}",
        "audit": "/ui/audit",
        "admin": "/ui/admin",
        "error": "/ui/jobs/ftjob-nothing",
    }
    return Work(pages, tuned, job["id"])


def make_project(service: LiveService, name: str) -> str:
    """A project with nothing in it; its id."""
    with service.client("/tunesmith/v1") as own:
        return str(_told(own.post("/projects", json={"name": name}))["id"])


def row(number: int) -> dict[str, Any]:
    """A row of training."""
    queue = list(QUEUES)[number % 3]
    messages = [
        {"role": "system", "content": "Answer with the queue of the message."},
        {"role": "user", "content": f"{QUEUES[queue][number // 3 % 2]} Order {1000 + number}."},
        {"role": "assistant", "content": queue},
    ]
    return {"messages": messages}


def long_lists(service: LiveService, project_id: str, done: Work, base: str) -> dict[str, str]:
    """Fill a project with much of everything; the pages to take, by the names of their pictures."""
    context = open_context(settings_of(service.data_folder, known_choices(service.data_folder)))
    put = Putter(context, project_id)
    for at in range(MANY):
        name = _LONG_NAME if at == MANY - 1 else f"tickets-{at:03}"
        put(FILES, "file-", purpose="fine-tune", status="processed", filename=f"{name}.jsonl", bytes=7919 * (at + 1))
        key = make_key()
        put(API_KEYS, "key_", name=f"application {at:03}", hash=key.hash, shown=key.shown, scope="inference")
        put(AUDIT, "audit_", actor=f"person-{at % 7}@example.org", action="key.create", target=new_id("key_"))
        person = put(USERS, "user_", name=f"Person {at:03}", email=f"person-{at:03}@example.org", is_admin=False)
        if at < 40:
            put(MEMBERS, user_id=person, role="member")
        put(DEPLOYMENTS, "dep_", name=f"answers-{at:03}", kind="real-time", traffic={done.model: 100})
        put(BATCHES, "batch_", model=done.model, total=1200, completed=1200 - at, failed=at, **_BATCH)
    batch = put(BATCHES, "batch_", model=done.model, total=0, completed=0, failed=0, **{**_BATCH, **_WRONG})
    evaluation = _many_evaluations(put, done.model, base)
    failed = _many_jobs(context, put, done, base)
    _much_use(context, put, base, done.model)
    hook = put(WEBHOOKS, "wh_", url=f"https://example.com/{_LONG_NAME}", events=_EVENTS, enabled=False)
    for at in range(60):
        state = ("delivered", "given_up")[at % 5 == 0]
        put(DELIVERIES, "evt_", webhook_id=hook, event="batch.completed", state=state, tries=1, answer="status 204")
    context.database.close()
    same = (
        "overview",
        "data",
        "jobs",
        "models",
        "deployments",
        "batches",
        "evaluations",
        "usage",
        "project",
        "audit",
        "admin",
    )
    more = {"job": f"/ui/jobs/{failed}", "webhook": f"/ui/webhooks/{hook}", "webhooks": "/ui/webhooks"}
    more |= {"batch": f"/ui/batches/{batch}", "evaluation": f"/ui/evaluations/{evaluation}"}
    more |= {"new-job": "/ui/jobs/new", "models-to-ask": "/ui/playground", "deployment": "/ui/deployments/answers-000"}
    return {**{name: done.pages[name] for name in same}, **more}


_BATCH = {"state": "completed", "endpoint": "/v1/chat/completions", "expires_at": 4e9, "errors": None, "usage": None}


_WRONG = {
    "state": "failed",
    "errors": [
        {"code": "invalid_json_line", "message": "This line is not parseable as valid JSON.", "param": None, "line": at}
        for at in range(1, 61)
    ],
}


def _many_evaluations(put: Putter, tuned: str, base: str) -> str:
    """Evaluations with measures, and one that has failed; its id."""
    common = {"measured": tuned, "base": base, "file_id": new_id("file-"), "options": {"task": "chat", "rows": 200}}
    for at in range(MANY):
        measured = {"exact_match": {"value": at / MANY, "low": at / MANY - 0.01, "high": at / MANY + 0.01}}
        systems = [{"name": name, "loss": 1.5, "metrics": measured} for name in ("base", "tuned")]
        result = {"primary_metric": "exact_match", "rows": 200, "systems": systems}
        told = {"result": result, "usage": {"total_tokens": 7919 * (at + 1)}, "error": None, "progress": None}
        put(EVALUATIONS, "eval_", state="succeeded", model=tuned, **common, **told)
    error = {"code": "failed", "message": "The worker ended before it had measured anything. " * 8, "param": None}
    told = {"result": None, "usage": None, "error": error, "progress": None}
    name = f"ft:{base}:tunesmith:{_LONG_NAME[:40]}:{short_id()}"
    return put(EVALUATIONS, "eval_", state="failed", model=name, **common, **told)


def _many_jobs(context: Context, put: Putter, done: Work, base: str) -> str:
    """Jobs, their models, and one that has failed after many events; its id."""
    with context.database.read() as connection:
        address = connection.execute(select(TUNED_MODELS.c.address).where(TUNED_MODELS.c.id == done.model)).scalar_one()
    common = {"model": base, "base": base, "method": {"type": "supervised"}, "hyperparameters": {"n_epochs": 3}}
    common |= {"wish": "run", "result_files": [], "created_by": "key", "priority": 0, "lock_token": None}
    for at in range(MANY):
        state = ("succeeded", "succeeded", "cancelled")[at % 3]
        tuned = f"ft:{base}:tunesmith:tickets-{at:03}:{short_id()}"
        ended = {"state": state, "finished_at": context.now(), "trained_tokens": 12_345 * at, "error": None}
        job = put(JOBS, "ftjob-", suffix=f"tickets-{at:03}", fine_tuned_model=tuned, **ended, **common)
        if state == "succeeded":
            put(TUNED_MODELS, id=tuned, base=base, job_id=job, address=address)
    message = "The worker ran out of memory: 3.1 GiB were wanted and 1.2 GiB were free. Set a smaller max_length."
    error = {"code": "memory", "message": message, "param": None}
    ended = {"state": "failed", "finished_at": context.now(), "trained_tokens": 0, "error": error}
    job = put(JOBS, "ftjob-", suffix=_LONG_NAME[:64], fine_tuned_model=None, **ended, **common)
    for step in range(1, 401):
        data = {"step": step, "total_steps": 1000, "train_loss": 3.0 / step**0.3, "tokens_per_second": 812.5}
        told = f"Step {step}/1000: training loss={data['train_loss']:.2f}"
        put(JOB_EVENTS, "ftevent-", job_id=job, level="info", type="metrics", message=told, data=data)
        if step % 20 == 0:
            name = f"ft:{base}:tunesmith:{_LONG_NAME[:40]}:{short_id()}:ckpt-step-{step}"
            put(JOB_CHECKPOINTS, "ftckpt_", job_id=job, step=step, name=name, metrics={"train_loss": 1.25})
    put(JOB_EVENTS, "ftevent-", job_id=job, level="error", type="message", message=message, data=None)
    return job


def _much_use(context: Context, put: Putter, base: str, tuned: str) -> None:
    hour = int(context.now() // 3600)
    for day in range(28):
        for model in (base, tuned):
            for kind in ("input_tokens", "output_tokens", "trained_tokens"):
                many = 9_000 * (day % 9 + 1)
                put(USAGE, hour=hour - 24 * day, kind=kind, model=model, key_id="", quantity=many, cost=many * 2e-6)


def _people(own: httpx.Client) -> None:
    project = _told(own.get("/projects"))["data"][0]["id"]
    for name in _PEOPLE:
        email = f"{name.split()[0].lower()}@example.org"
        _told(own.post("/users", json={"name": name, "email": email}))
        _told(own.post(f"/projects/{project}/members", json={"email": email}))


def _batch(client: httpx.Client, folder: Path, model: str) -> str:
    """A batch that was answered; its id."""
    path = folder / "questions.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(6):
            body = {"model": model, "messages": row(number)["messages"][:2], "max_tokens": 8}
            line = {"custom_id": f"ticket-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = client.post("/batches", json={"input_file_id": _upload(client, path, "batch"), **asked})
    return str(_ended(client, "/batches", _told(made))["id"])


def _upload(client: httpx.Client, path: Path, purpose: str) -> str:
    with path.open("rb") as file:
        return str(_told(client.post("/files", data={"purpose": purpose}, files={"file": (path.name, file)}))["id"])


def _ended(client: httpx.Client, path: str, thing: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + _JOB_SECONDS
    while thing["status"] not in _ENDED:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{thing['id']} is {thing['status']} after {_JOB_SECONDS:g} s")
        time.sleep(1)
        thing = _told(client.get(f"{path}/{thing['id']}"))
    if thing["status"] == "failed":
        raise RuntimeError(f"{thing['id']}: {thing.get('error') or thing.get('errors')}")
    return thing


def _told(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise RuntimeError(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}")
    found: dict[str, Any] = answer.json()
    return found
