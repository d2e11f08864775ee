"""Rows of every kind in one project, put into the database directly, with texts that nobody else may ever read.

rows = plant(site, site.project("victim"))
rows.by_parameter["file_id"]      # what a path of a route may name
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service_site import Project, Site
from sqlalchemy import JSON, Boolean, Double, Integer, String, Table, insert

from tunesmith.service.auth.keys import make_key
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import API_KEYS, LICENCES, MEMBERS, USERS
from tunesmith.service.db.tables.evaluations import EVALUATIONS
from tunesmith.service.db.tables.files import FILES, UPLOAD_PARTS, UPLOADS
from tunesmith.service.db.tables.inference import BATCHES, DEPLOYMENTS, ENGINES
from tunesmith.service.db.tables.jobs import CHECKPOINT_PERMISSIONS, JOB_CHECKPOINTS, JOB_EVENTS, JOBS
from tunesmith.service.db.tables.keeping import AUDIT, DELIVERIES, REQUESTS, WEBHOOKS
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.ids import new_id, short_id

PLANTED = "planted-text"
BASE = "smollm2-135m-instruct"


@dataclass
class Rows:
    """What was put in.

    Attributes:
        by_parameter: A name for every parameter that a path of the service has.
        upload_part: A part of the upload.
        batch_file: A file for batches.
        secrets: What no answer and no log may hold.
    """

    by_parameter: dict[str, str]
    upload_part: str
    batch_file: str
    secrets: list[str] = field(default_factory=list)


def plant(site: Site, project: Project) -> Rows:
    """One row of every kind in a project."""
    put = Putter(site.context, project.id)
    tuned = f"ft:{BASE}:tunesmith:{PLANTED}:{short_id()}"
    secret = f"secret-{PLANTED}-{short_id()}"
    user = put(USERS, "user_", email=f"{PLANTED}-{short_id()}@example.org")
    put(MEMBERS, user_id=user, role="member")
    key = make_key()
    key_id = put(API_KEYS, "key_", hash=key.hash, shown=key.shown, scope="member", user_id=user)
    file = put(FILES, "file-", purpose="fine-tune", status="processed", filename=f"{PLANTED}.jsonl")
    batch_file = put(FILES, "file-", purpose="batch", status="processed", filename=f"{PLANTED}.jsonl")
    upload = put(UPLOADS, "upload_", purpose="fine-tune", status="pending", expires_at=4e9)
    part = put(UPLOAD_PARTS, "part_", upload_id=upload)
    method = {"type": "supervised"}
    done = {"state": "succeeded", "wish": "run", "fine_tuned_model": tuned}
    job = put(JOBS, "ftjob-", model=BASE, training_file=file, method=method, **done)
    put(JOB_EVENTS, "ftevent-", job_id=job, level="info", type="message")
    checkpoint = f"{tuned}:ckpt-step-1"
    put(JOB_CHECKPOINTS, "ftckpt_", job_id=job, step=1, name=checkpoint)
    permission = put(CHECKPOINT_PERMISSIONS, "cp_", checkpoint=checkpoint)
    for name in (tuned, checkpoint):
        put(TUNED_MODELS, id=name, base=BASE, job_id=job, address=f"{job}:1")
    wrong = [{"code": "invalid_url", "message": PLANTED, "param": "url", "line": 1}]
    asked = {"endpoint": "/v1/chat/completions", "input_file_id": batch_file}
    batch = put(BATCHES, "batch_", state="in_progress", errors=wrong, **asked)
    measured = {"model": tuned, "measured": tuned, "base": BASE, "file_id": file, "options": {"task": PLANTED}}
    nothing = dict.fromkeys(("progress", "result", "usage"))
    failed = {"state": "running", "error": {"code": "failed", "message": PLANTED, "param": None}}
    evaluation = put(EVALUATIONS, "eval_", **measured, **failed, **nothing)
    deployment = f"{PLANTED}-deployment"
    put(DEPLOYMENTS, "dep_", name=deployment, kind="real-time", traffic={tuned: 100})
    put(ENGINES, "engine_", base=f"{BASE}-{PLANTED}-{short_id()}", state="ready", token=secret)
    webhook = put(WEBHOOKS, "wh_", url=f"https://example.org/{PLANTED}", secret=secret, events=[], enabled=True)
    put(DELIVERIES, "evt_", webhook_id=webhook, event="webhook.test", state="waiting")
    put(LICENCES, "lic_", model=BASE)
    put(AUDIT, "audit_", action="test")
    put(USAGE, kind="input_tokens")
    put(REQUESTS, "req_", key=PLANTED, expires_at=4e9)
    names = {
        "project_id": project.id,
        "user_id": user,
        "key_id": key_id,
        "file_id": file,
        "upload_id": upload,
        "fine_tuning_job_id": job,
        "job_id": job,
        "job": job,
        "checkpoint": checkpoint,
        "permission_id": permission,
        "batch_id": batch,
        "evaluation_id": evaluation,
        "model": tuned,
        "label": "production",
        "name": deployment,
        "deployment": deployment,
        "webhook_id": webhook,
        # Of paths of the contract that the service does not have.
        "rest": "eval_1",
        # Of the pages, which have no such file.
        "asset": "nothing.css",
    }
    return Rows(names, part, batch_file, [secret, key.secret])


class Putter:
    """Puts a row into a table; what is not given gets whatever fits, so that tables may grow."""

    def __init__(self, context: Context, project_id: str) -> None:
        self._context = context
        self._project_id = project_id

    def __call__(self, table: Table, prefix: str = "", **given: Any) -> str:
        values = {"project_id": self._project_id, **({"id": new_id(prefix)} if prefix else {}), **given}
        row = {column.name: values.get(column.name, self._fitting(column)) for column in table.columns}
        known = {name: value for name, value in row.items() if value is not None}
        with self._context.database.write() as connection:
            connection.execute(insert(table).values(**known))
        return str(row.get("id", ""))

    def _fitting(self, column: Any) -> Any:
        kind = column.type
        if column.name.endswith("_at") or column.name.startswith("lock_"):
            return self._context.now() if column.name == "created_at" or not column.nullable else None
        if column.nullable and not isinstance(kind, String | JSON):
            return None
        if isinstance(kind, JSON):
            return {"text": PLANTED}
        if isinstance(kind, Boolean):
            return False
        if isinstance(kind, Integer | Double):
            return 1
        if column.nullable and column.foreign_keys:
            return None
        return f"{PLANTED}-{short_id()}"[: kind.length]
