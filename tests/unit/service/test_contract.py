"""Every operation of OpenAI's description, once: answered as it says, or by the code ``unsupported``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from openapi import Contract, load_contract
from service_engines import hosted, hurry, serving_command, stand_in_site
from service_jobs import chat_rows
from service_site import Site
from sqlalchemy import insert

from tunesmith.service.db.tables.jobs import JOB_CHECKPOINTS
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.engines import process

BASE = "smollm2-135m-instruct"
TUNED = f"ft:{BASE}:tunesmith::abcdefgh"
JOBS, CHECKPOINTS = "/fine_tuning/jobs", "/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions"
ONE_JOB = f"{JOBS}/{{fine_tuning_job_id}}"
UNSUPPORTED = {
    ("GET", "/chat/completions"),
    ("POST", "/fine_tuning/alpha/graders/run"),
    ("POST", "/fine_tuning/alpha/graders/validate"),
}
# It is in the description's own example of a pause, and not in its list of states.
PAUSED = "'paused' is not one of"


class Walk:
    """Asks under a prefix, and holds every answer to the contract.

    Attributes:
        asked: The operations that were asked.
        names: What stands for the parameters of paths.
    """

    def __init__(self, contract: Contract, client: httpx.Client, prefix: str) -> None:
        self._contract = contract
        self._client = client
        self._prefix = prefix
        self.asked: set[tuple[str, str]] = set()
        self.unsupported: set[tuple[str, str]] = set()
        self.names: dict[str, str] = {}

    def __call__(self, method: str, path: str, **request: Any) -> Any:
        """Ask; the answer's JSON."""
        self.asked.add((method, path))
        filled = path.format(**{key: quote(name, safe=":") for key, name in self.names.items()})
        answer = self._client.request(method, self._prefix + filled, **request)
        assert answer.headers["x-request-id"].startswith("req_")
        if answer.status_code == 501:
            self.unsupported.add((method, path))
            error = answer.json()["error"]
            assert (error["code"], answer.headers["x-should-retry"]) == ("unsupported", "false")
            return None
        assert answer.status_code == 200, f"{method} {path}: {answer.text}"
        if path.endswith("/content"):
            return answer.content
        operation = self._contract.find(method, filled)
        assert operation is not None
        problems = self._contract.problems_of_answer(operation.answer, answer.json())
        assert [one for one in problems if PAUSED not in one] == [], f"{method} {path}"
        return answer.json()


def keep_checkpoint(site: Site, job_id: str) -> str:
    """What a dispatcher would keep of a training: a checkpoint and a model; the checkpoint's name."""
    name, now = f"{TUNED}:ckpt-step-8", site.context.now()
    metrics = {"step": 8, "train_loss": 0.5}
    row = {"id": "ftckpt_1", "job_id": job_id, "created_at": now, "step": 8, "name": name, "metrics": metrics}
    with site.context.database.write() as connection:
        connection.execute(insert(JOB_CHECKPOINTS).values(**row))
        for model in (name, TUNED):
            kept = {"project_id": site.default.id, "base": BASE, "job_id": job_id, "address": "nothing:1"}
            connection.execute(insert(TUNED_MODELS).values(id=model, created_at=now, **kept))
    return name


def tune(walk: Walk, site: Site) -> None:
    """Files, jobs, checkpoints, models."""
    rows = "".join(f"{json.dumps(row)}\n" for row in chat_rows(12)).encode()
    file = walk("POST", "/files", files={"file": ("rows.jsonl", rows)}, data={"purpose": "fine-tune"})
    walk.names["file_id"] = file["id"]
    walk("GET", "/files", params={"purpose": "fine-tune", "limit": 10, "order": "asc"})
    walk("GET", "/files/{file_id}")
    assert walk("GET", "/files/{file_id}/content") == rows
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}
    asked = {"model": BASE, "training_file": file["id"], "seed": 1, "metadata": {"a": "b"}, "method": method}
    walk.names["fine_tuning_job_id"] = job = walk("POST", JOBS, json=asked)["id"]
    assert walk("GET", JOBS, params={"metadata[a]": "b", "limit": 1})["data"][0]["id"] == job
    for action, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert walk("POST", f"{ONE_JOB}/{action}")["status"] == state
    walk("GET", ONE_JOB)
    assert len(walk("GET", f"{ONE_JOB}/events", params={"limit": 2})["data"]) == 2
    walk.names["fine_tuned_model_checkpoint"] = keep_checkpoint(site, job)
    walk("GET", f"{ONE_JOB}/checkpoints", params={"limit": 5})
    other = site.project("other").id
    walk.names["permission_id"] = walk("POST", CHECKPOINTS, json={"project_ids": [other]})["data"][0]["id"]
    assert walk("GET", CHECKPOINTS, params={"project_id": other, "order": "ascending"})["data"]
    walk("DELETE", f"{CHECKPOINTS}/{{permission_id}}")
    walk("GET", "/models")
    walk.names["model"] = TUNED
    walk("GET", "/models/{model}")
    walk("DELETE", "/models/{model}")
    walk("DELETE", "/files/{file_id}")


def upload(walk: Walk) -> None:
    """Files in parts."""
    asked = {"filename": "rows.jsonl", "purpose": "fine-tune", "bytes": 2, "mime_type": "application/jsonl"}
    for last in ("complete", "cancel"):
        walk.names["upload_id"] = walk("POST", "/uploads", json=asked)["id"]
        part = walk("POST", "/uploads/{upload_id}/parts", files={"data": ("a", b"{}")})["id"]
        more = {"json": {"part_ids": [part]}} if last == "complete" else {}
        assert walk("POST", f"/uploads/{{upload_id}}/{last}", **more)["status"].startswith(last)


def use(walk: Walk) -> None:
    """Questions and batches."""
    question = {"model": "one", "messages": [{"role": "user", "content": "hello"}]}
    assert walk("POST", "/chat/completions", json=question)["model"] == "one"
    assert walk("POST", "/completions", json={"model": "one", "prompt": "hello"})["model"] == "one"
    assert walk("POST", "/embeddings", json={"model": "one", "input": "hello"})["model"] == "one"
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": question}
    file = walk("POST", "/files", files={"file": ("b.jsonl", json.dumps(line))}, data={"purpose": "batch"})
    asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    walk.names["batch_id"] = walk("POST", "/batches", json=asked)["id"]
    walk("GET", "/batches", params={"limit": 1})
    walk("GET", "/batches/{batch_id}")
    assert walk("POST", "/batches/{batch_id}/cancel")["status"] == "cancelling"


@pytest.mark.parametrize(
    ("prefix", "kind"), [("/v1", "sqlite"), ("/v1", "postgresql"), ("/openai/v1", "sqlite"), ("/openai", "sqlite")]
)
def test_every_operation_of_the_contract(
    tmp_path: Path, prefix: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = load_contract()
    monkeypatch.setattr(process, "serving_command", serving_command)
    hurry(monkeypatch)
    site = stand_in_site(tmp_path, kind, models=[f"one={tmp_path / 'model'}", BASE])
    walk = Walk(contract, site.client("admin"), prefix)
    with hosted(site.context):
        tune(walk, site)
        upload(walk)
        use(walk)
        for method, path in UNSUPPORTED:
            walk(method, path, **({"json": {}} if method == "POST" else {}))
    site.context.database.close()
    # None was forgotten, whatever the description is told next.
    assert contract.operations() - walk.asked == set()
    assert walk.unsupported == UNSUPPORTED
