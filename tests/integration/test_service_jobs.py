"""Jobs of the service that really train: with the worker, the queue of this machine and the dispatcher's process."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openapi import load_contract
from service_jobs import QUICK, chat_rows, create, jobs_site, status, upload
from service_site import Project, Site
from tiny_models import tiny_model_folder

from tunesmith.catalog.registered import find_registered
from tunesmith.executors.local.worker import launched_process
from tunesmith.runs.events import read_events
from tunesmith.service.backup import restore_backup, write_backup
from tunesmith.service.context import open_context
from tunesmith.service.dispatcher.keeping import registry_of
from tunesmith.service.fine_tuning.places import run_of
from tunesmith.service.registry.chores import collect_garbage
from tunesmith.service.settings import write_settings

_PATIENCE_SECONDS = 240.0
_PROGRAM = """
import sys, threading
from pathlib import Path
from tunesmith.service.context import open_context
from tunesmith.service.dispatcher.loop import run
from tunesmith.service.settings import read_settings
run(open_context(read_settings(Path(sys.argv[1]))), threading.Event())
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = jobs_site(tmp_path, "sqlite", tiny_model_folder("llama", tmp_path / "tiny"))
    yield site
    site.context.database.close()


def start_dispatcher(site: Site) -> subprocess.Popen[bytes]:
    path = site.context.settings.data_folder / "settings.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_settings(site.context.settings, path)
    with (path.parent / "dispatcher.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(path)],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


@contextmanager
def dispatching(site: Site) -> Iterator[None]:
    process = start_dispatcher(site)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def until(found: Callable[[], Any], site: Site) -> Any:
    """What is found at last."""
    ends = time.monotonic() + _PATIENCE_SECONDS
    while not (value := found()):
        assert time.monotonic() < ends, (site.context.settings.data_folder / "dispatcher.log").read_text()[-3000:]
        time.sleep(0.3)
    return value


def ended(site: Site, job_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = site.client().get(f"/v1/fine_tuning/jobs/{job_id}").json()
        return job if job["status"] in ("succeeded", "failed", "cancelled") else None

    job: dict[str, Any] = until(look, site)
    return job


@pytest.mark.slow
def test_a_job_trains_and_leaves_what_the_contract_promises(site: Site) -> None:
    client, file_id = site.client(), upload(site.default, chat_rows(40))
    numbers = {"n_epochs": 2, "batch_size": 4}
    options = {**QUICK, "checkpoint_every_steps": 6}
    with dispatching(site):
        made = create(client, file_id, suffix="mine", hyperparameters=numbers, tunesmith=options)
        job = ended(site, made["id"])
        assert job["status"] == "succeeded", job["error"]
        name = f"ft:tiny:tunesmith:mine:{job['id'][-8:]}"
        assert job["fine_tuned_model"] == name
        contract = load_contract()
        for path in ("", "/checkpoints", "/events"):
            operation = contract.find("GET", f"/fine_tuning/jobs/x{path}")
            assert operation is not None
            answer = client.get(f"/v1/fine_tuning/jobs/{job['id']}{path}", params={"limit": 100} if path else {}).json()
            assert contract.problems_of_answer(operation.answer, answer) == []
            if path == "/checkpoints":
                checkpoints = answer["data"]
            elif path == "/events":
                messages = [event["message"] for event in answer["data"]]
        assert [one["step_number"] for one in checkpoints] == [18, 12, 6]
        assert checkpoints[-1]["fine_tuned_model_checkpoint"] == f"{name}:ckpt-step-6"
        assert messages[:2] == ["The job has successfully completed", f"New fine-tuned model created: {name}"]
        # An epoch of 36 rows, 4 a step: 9 steps.
        assert sum(message.startswith("Step") and "/18" in message for message in messages) == 18
        for step in (6, 12, 18):
            found = find_registered(f"{job['id']}:1@{step}", registry_of(site.context))
            assert not found.needs_checkpoint
        table = site.file_bytes(job["result_files"][0]).decode().splitlines()
        assert table[0].startswith("step,train_loss,train_mean_token_accuracy,valid_loss")
        assert len(table) == 19
        report = client.get(f"/tunesmith/v1/jobs/{job['id']}/report").text
        assert json.loads(report)["cost"]["steps"] == 18
        assert str(site.context.settings.data_folder) not in report
        again = create(client, file_id, model=f"{name}:ckpt-step-6", hyperparameters=numbers, tunesmith=options)
        further = ended(site, again["id"])
        assert further["status"] == "succeeded", further["error"]
        assert further["fine_tuned_model"].startswith("ft:tiny:tunesmith::")


@pytest.mark.slow
def test_a_job_with_a_budget_of_time_tells_the_numbers_that_its_run_chose(site: Site) -> None:
    client, file_id = site.client(), upload(site.default, chat_rows(40))
    with dispatching(site):
        made = create(client, file_id, tunesmith={**QUICK, "budget": "60s"})
        assert made["hyperparameters"] == dict.fromkeys(("n_epochs", "batch_size"), "auto") | {
            "learning_rate_multiplier": 1.0
        }
        job = ended(site, made["id"])
    assert job["status"] == "succeeded", job["error"]
    steps = [event for event in read_events(run_of(site.context, job["id"]).events) if event.type == "step"]
    table = csv.DictReader(site.file_bytes(job["result_files"][0]).decode().splitlines())
    known = [row for row in table if row["valid_loss"]]
    assert known
    assert all(0 <= float(row["valid_mean_token_accuracy"]) <= 1 for row in known)
    numbers = job["hyperparameters"]
    assert numbers["n_epochs"] == max(1, round(steps[-1].data["epoch"]))
    # Of 40 rows 36 are learned.
    assert numbers["batch_size"] == round(36 * steps[0].data["epoch"])


@pytest.mark.slow
def test_a_dispatcher_and_a_worker_that_are_killed_lose_nothing(site: Site) -> None:
    client, file_id = site.client(), upload(site.default, chat_rows(40))
    options = {**QUICK, "checkpoint_every_steps": 40}
    numbers = {"n_epochs": 50, "batch_size": 1}
    job_id = create(client, file_id, hyperparameters=numbers, tunesmith=options)["id"]
    run = run_of(site.context, job_id)

    def saved() -> bool:
        return any(event.type == "checkpoint" for event in read_events(run.events))

    dispatcher = start_dispatcher(site)
    until(saved, site)
    dispatcher.send_signal(signal.SIGKILL)
    dispatcher.wait()
    worker = launched_process(run.path)
    if worker is not None:
        worker.kill()
    with dispatching(site):
        job = ended(site, job_id)
    assert job["status"] == "succeeded", job["error"]
    events = list(read_events(run.events))
    steps = [event.step for event in events if event.type == "step"]
    assert sorted(set(steps)) == list(range(1, 1801))
    told = site.context.database
    with told.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT COUNT(*), COUNT(DISTINCT source) FROM job_events WHERE source IS NOT NULL"
        ).one()
    assert rows[0] == rows[1]
    tokens = {event.step: event.data["tokens"] for event in events if event.type == "step"}
    assert job["trained_tokens"] == sum(tokens.values())
    assert [path.name for path in site.context.settings.runs_folder.glob("ftjob-*")] == [job_id]


@pytest.mark.slow
def test_an_exact_estimate_counts_what_trains_and_later_ones_know_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    client, file_id = site.client(), upload(site.default, chat_rows(40))
    body = {"model": "tiny", "training_file": file_id, "tunesmith": {"technique": "osf", "exact": True}}
    exact = client.post("/tunesmith/v1/estimates", json=body).json()
    assert exact["plan"]["trained_parameters"] == 15_040, exact["warnings"]
    later = client.post("/tunesmith/v1/estimates", json={**body, "tunesmith": {"technique": "osf"}}).json()
    assert later["plan"]["trained_parameters"] == 15_040


@pytest.mark.slow
def test_a_pause_leaves_a_checkpoint_that_can_be_used_and_the_job_goes_on(site: Site) -> None:
    client, file_id = site.client(), upload(site.default, chat_rows(40))
    body = {"hyperparameters": {"n_epochs": 50, "batch_size": 1}, "tunesmith": {**QUICK, "checkpoint_every_steps": 900}}
    job_id = create(client, file_id, **body)["id"]
    run = run_of(site.context, job_id)

    def trains() -> bool:
        return any(event.type == "step" for event in read_events(run.events))

    def state(wanted: str) -> Callable[[], bool]:
        return lambda: client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["status"] == wanted

    with dispatching(site):
        until(trains, site)
        client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
        until(state("paused"), site)
        checkpoint = client.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints").json()["data"][0]
        address = f"{job_id}:1@{checkpoint['step_number']}"
        assert not find_registered(address, registry_of(site.context)).needs_checkpoint
        estimate = {"model": "tiny", "training_file": file_id, "tunesmith": {"exact": True}}
        found = client.post("/tunesmith/v1/estimates", json=estimate).json()
        assert (found["guessed"], found["plan"]["fits"]) == (False, True), found["warnings"]
        client.post(f"/v1/fine_tuning/jobs/{job_id}/resume")
        assert ended(site, job_id)["status"] == "succeeded"


@pytest.mark.slow
def test_a_paused_job_goes_on_from_its_checkpoint_in_a_folder_that_a_backup_is_restored_into(
    site: Site, tmp_path: Path
) -> None:
    client, file_id = site.client(), upload(site.default, chat_rows(40))
    body = {"hyperparameters": {"n_epochs": 50, "batch_size": 1}, "tunesmith": {**QUICK, "checkpoint_every_steps": 900}}
    job_id = create(client, file_id, **body)["id"]
    run = run_of(site.context, job_id)
    with dispatching(site):
        until(lambda: any(event.type == "step" for event in read_events(run.events)), site)
        client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
        until(lambda: client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["status"] == "paused", site)
    reached = max(event.step or 0 for event in read_events(run.events))
    write_backup(site.context, tmp_path / "one.tar", with_files=True)
    old, folder = site.context.settings, tmp_path / "second"
    settings = old.model_copy(
        update={
            "data_folder": folder / "data",
            "storage": str(folder / "storage"),
            "database": f"sqlite:///{folder / 'service.db'}",
        }
    )
    restore_backup(settings, tmp_path / "one.tar")
    shutil.rmtree(old.data_folder)
    again = Site(open_context(settings), site.first_key)
    again.operator.post(f"/v1/fine_tuning/jobs/{job_id}/resume")
    with dispatching(again):
        assert ended(again, job_id)["status"] == "succeeded"
    steps = [event for event in read_events(run_of(again.context, job_id).events) if event.type == "step"]
    assert min(event.step or 0 for event in steps if event.attempt > 1) == reached + 1
    again.context.database.close()


@pytest.mark.slow
def test_a_project_that_trained_is_deleted_with_all_that_its_job_wrote(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    projects = {mark: site.project(mark) for mark in ("zebra", "gnu")}
    options = {**QUICK, "checkpoint_every_steps": 6}
    jobs: dict[str, str] = {}
    for mark, project in projects.items():
        rows = json.loads(json.dumps(chat_rows(40)).replace("ticket", mark))
        file_id = upload(project, rows)
        jobs[mark] = create(project.client(), file_id, hyperparameters={"n_epochs": 1}, tunesmith=options)["id"]

    def places(mark: str) -> set[Path]:
        """Files with rows of a project or a name of its job, but for the database and what processes tell of."""
        words = (mark.encode(), jobs[mark].encode())
        own = ("service.db", "dispatcher.log")
        files = (path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(own))
        return {path for path in files if any(word in bytes(path) or word in path.read_bytes() for word in words)}

    def is_done(project: Project, job_id: str) -> bool:
        return status(project.client(), job_id) == "succeeded"

    with dispatching(site):
        for mark, project in projects.items():
            until(partial(is_done, project, jobs[mark]), site)
        names = {path.name for path in places("zebra")}
        assert {"recipe.yaml", "report.json"} <= names
        kept = {path for path in places("gnu") if ".queue" not in path.parts}
        whole = f"/tunesmith/v1/projects/{projects['zebra'].id}"
        assert site.operator.post(f"{whole}/archive").status_code == 200
        assert site.operator.delete(whole).status_code == 200
        until(lambda: not run_of(site.context, jobs["zebra"]).path.exists(), site)
        collect_garbage(site.context)
    number = f"registry/models/{jobs['zebra']}/versions/00000001"
    # The queue and the registry remember numbers that they gave, without a row of anybody.
    told = {path for path in places("zebra") if ".queue" not in path.parts}
    assert {path.relative_to(site.context.settings.storage).as_posix() for path in told} == {
        f"{number}/claim.json",
        f"{number}/removed.json",
    }
    assert kept <= places("gnu")
    model = projects["gnu"].client().get("/v1/models").json()["data"][-1]["id"]
    assert model.startswith("ft:")
    assert find_registered(f"{jobs['gnu']}:1", registry_of(site.context)).version.state == "whole"
