"""A service as a company runs it: PostgreSQL, an object storage, a Ray cluster that trains, several API processes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_service import LiveService, live_service
from ray_cluster import PATIENCE_SECONDS, Cluster
from service_jobs import QUICK, chat_rows
from service_site import database_url
from storage_servers import serve_s3
from tiny_models import tiny_model_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
_ENDED = ("succeeded", "failed", "cancelled")


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveService]:
    model = tiny_model_folder("llama", tmp_path / "tiny")
    database = database_url("postgresql", tmp_path)
    # Its environment has the way to the storage, which the cluster takes over.
    with serve_s3(tmp_path, monkeypatch) as storage:
        cluster = Cluster.start()
        try:
            settings = {
                "database": database,
                "storage": storage,
                "executor": {"name": "ray", "address": cluster.dashboard},
                "models": [f"tiny={model}"],
                "api_processes": 2,
            }
            config = tmp_path / "service.yaml"
            config.write_text(json.dumps(settings))
            with live_service(tmp_path, "--config", str(config)) as service:
                yield service
        finally:
            cluster.close()


def test_a_job_trains_on_the_cluster_and_answers(service: LiveService) -> None:
    with service.client() as client:
        job = _create(client, n_epochs=3)
        service.wait_for(lambda: _job(client, job)["status"] == "running", PATIENCE_SECONDS)
        # Whoever follows the job is replaced; the cluster goes on meanwhile.
        service.kill("dispatcher")
        service.wait_for(lambda: _job(client, job)["status"] in _ENDED, PATIENCE_SECONDS)
        done = _job(client, job)
        assert done["status"] == "succeeded", (done["error"], service.words())
        events = list(_every(client, f"/fine_tuning/jobs/{job}/events"))
        assert len({event["id"] for event in events}) == len(events)
        steps = [event["data"]["step"] for event in events if event["type"] == "metrics"]
        assert sorted(set(steps)) == list(range(1, max(steps) + 1))
        results = client.get(f"/files/{done['result_files'][0]}/content")
        assert results.text.startswith("step,")
        checkpoints = client.get(f"/fine_tuning/jobs/{job}/checkpoints").json()["data"]
        # Those on the way too, which need what went along with the job to be made usable here.
        assert [one["step_number"] for one in checkpoints] == list(range(max(steps), 1, -1)), service.words()
        assert not list((service.data_folder / "runs" / job / "inputs").rglob("*.jsonl"))
        for model in (done["fine_tuned_model"], checkpoints[-1]["fine_tuned_model_checkpoint"]):
            assert _answer(client, model)["choices"][0]["message"]["role"] == "assistant"


def test_a_job_on_the_cluster_is_cancelled(service: LiveService) -> None:
    with service.client() as client:
        job = _create(client, n_epochs=50, batch_size=1)
        service.wait_for(lambda: _job(client, job)["status"] == "running", PATIENCE_SECONDS)
        assert client.post(f"/fine_tuning/jobs/{job}/cancel").status_code == httpx.codes.OK
        service.wait_for(lambda: _job(client, job)["status"] == "cancelled", PATIENCE_SECONDS)


def _create(client: httpx.Client, **hyperparameters: int) -> str:
    rows = "".join(json.dumps(row) + "\n" for row in chat_rows(24)).encode()
    file = client.post("/files", files={"file": ("rows.jsonl", rows)}, data={"purpose": "fine-tune"}).json()["id"]
    body = {
        "model": "tiny",
        "training_file": file,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "tunesmith": {**QUICK, "evaluation_rows": 2, "checkpoint_every_steps": 2},
    }
    answer = client.post("/fine_tuning/jobs", json=body)
    assert answer.status_code == httpx.codes.OK, answer.text
    return str(answer.json()["id"])


def _job(client: httpx.Client, job: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/fine_tuning/jobs/{job}").json()
    return found


def _every(client: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    query: dict[str, Any] = {"limit": 100}
    while True:
        page = client.get(path, params=query).json()
        yield from page["data"]
        if not page["has_more"]:
            return
        query["after"] = page["data"][-1]["id"]


def _answer(client: httpx.Client, model: str) -> dict[str, Any]:
    """The model is loaded when it is asked for the first time; whoever asks too soon is told to wait."""
    body = {"model": model, "messages": [{"role": "user", "content": "ticket 1"}], "max_tokens": 4}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        answer = client.post("/chat/completions", json=body, timeout=120.0)
        if answer.status_code == httpx.codes.OK:
            found: dict[str, Any] = answer.json()
            return found
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(1)
