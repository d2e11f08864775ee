"""Batches that are answered: to their end, cut off and gone on with, cancelled. Engines are stand-ins."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from openapi import load_contract
from service_engines import hosted, hurry, serving_command, stand_in_site, until
from service_site import Project, Site
from sqlalchemy import func, select, update

from tunesmith.service.batches import beat
from tunesmith.service.batches.states import take
from tunesmith.service.batches.work import run_batches, work
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.db.tables.inference import BATCHES, ENGINES
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.engines import process
from tunesmith.service.files.chores import remove_deleted_bytes
from tunesmith.service.shared.engines import ensure_engine
from tunesmith.service.shared.files import keep_file


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(process, "serving_command", serving_command)
    hurry(monkeypatch)
    site = stand_in_site(tmp_path, "sqlite", prices={"one": {"input_tokens": 1e6, "output_tokens": 2e6}})
    with hosted(site.context):
        yield site
    site.context.database.close()


@contextmanager
def working(site: Site) -> Iterator[threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=run_batches, args=(site.context, stop))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(60)


def create(
    site: Site, folder: Path, count: int, model: str = "one", project: Project | None = None, **body: Any
) -> str:
    project = project or site.default
    path = folder / "batch.jsonl"
    with path.open("w") as file:
        for at in range(count):
            asked = {"model": model, "messages": [{"role": "user", "content": str(at)}], **body}
            line = {"custom_id": f"r{at}", "method": "POST", "url": "/v1/chat/completions", "body": asked}
            file.write(json.dumps(line) + "\n")
    name = keep_file(site.context, project.id, "batch", "batch.jsonl", path)
    asked = {"input_file_id": name, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    more = {"output_expires_after": {"anchor": "created_at", "seconds": 3600}}
    return str(project.client().post("/v1/batches", json={**asked, **more}).json()["id"])


def look(site: Site, name: str, project: Project | None = None) -> dict[str, Any]:
    batch = dict((project or site.default).client().get(f"/v1/batches/{name}").json())
    told = {key: value for key, value in batch.items() if value is not None}
    assert load_contract().problems_of_named("Batch", told) == []
    return batch


def lines_of(site: Site, file: str | None) -> list[dict[str, Any]]:
    with site.context.database.read() as connection:
        row = connection.execute(select(FILES).where(FILES.c.id == file)).one()
    assert row.purpose == "batch_output"
    assert row.expires_at > row.created_at
    return [json.loads(line) for line in site.context.storage.read(row.place).splitlines()]


def used(site: Site) -> dict[str, float]:
    query = select(USAGE.c.kind, func.sum(USAGE.c.quantity)).where(USAGE.c.project_id == site.default.id)
    with site.context.database.read() as connection:
        return {row[0]: row[1] for row in connection.execute(query.group_by(USAGE.c.kind))}


def cut_off(site: Site, folder: Path) -> tuple[str, int]:
    """A batch whose process was killed after some answers, in the middle of a line, and how many there are."""
    name = create(site, folder, 60, user="slow")
    stop = threading.Event()
    row = take(site.context)
    assert row is not None
    answers = site.context.scratch / name / "answers.jsonl"
    thread = threading.Thread(target=work, args=(site.context, row, stop))
    thread.start()
    until(lambda: answers.exists() and answers.stat().st_size > 0)
    stop.set()
    thread.join(30)
    whole = len(answers.read_text().splitlines())
    with answers.open("a") as file:
        file.write('{"id": "batch_req_torn')
    assert 0 < whole < 60
    return name, whole


def test_a_batch_is_answered_to_its_end(site: Site, tmp_path: Path) -> None:
    name = create(site, tmp_path, 30)
    with working(site):
        until(lambda: look(site, name)["status"] == "completed")
    batch = look(site, name)
    assert batch["request_counts"] == {"total": 30, "completed": 30, "failed": 0}
    assert batch["usage"]["total_tokens"] == 150
    assert "error_file_id" not in batch
    assert batch["in_progress_at"] <= batch["finalizing_at"] <= batch["completed_at"]
    told = lines_of(site, batch["output_file_id"])
    assert {one["custom_id"] for one in told} == {f"r{at}" for at in range(30)}
    assert {one["response"]["body"]["model"] for one in told} == {"one"}
    assert used(site) == {"input_tokens": 90, "output_tokens": 60, "requests": 30}
    assert [path.name for path in site.context.scratch.iterdir() if path.name.startswith("batch")] == []


def test_a_batch_goes_on_where_another_process_was_ended(site: Site, tmp_path: Path) -> None:
    """What was answered is not asked again, and what it cost is counted once."""
    name, answered = cut_off(site, tmp_path)
    before = (site.context.scratch / name / "answers.jsonl").read_text().splitlines()[:answered]
    assert look(site, name)["status"] == "in_progress"
    with working(site):
        until(lambda: look(site, name)["status"] == "completed")
    told = lines_of(site, look(site, name)["output_file_id"])
    assert [json.dumps(one, separators=(",", ":")) for one in told[: len(before)]] == before
    assert sorted(one["custom_id"] for one in told) == sorted(f"r{at}" for at in range(60))
    assert used(site) == {"input_tokens": 180, "output_tokens": 120, "requests": 60}


def test_a_killed_engine_holds_a_batch_up_and_spoils_nothing(site: Site, tmp_path: Path) -> None:
    name = create(site, tmp_path, 60, user="slow")
    answers = site.context.scratch / name / "answers.jsonl"
    with working(site):
        until(lambda: answers.exists() and answers.stat().st_size > 0)
        with site.context.database.read() as connection:
            (row,) = connection.execute(select(ENGINES)).all()
        kill_listener(row.address)
        until(lambda: look(site, name)["status"] == "completed")
    assert look(site, name)["request_counts"] == {"total": 60, "completed": 60, "failed": 0}


def test_a_stranger_at_an_engines_address_spoils_no_line(site: Site, tmp_path: Path) -> None:
    engine = ensure_engine(site.context, "one", 30)
    write(site, token="of-an-engine-that-died")
    name = create(site, tmp_path, 3)
    mended = threading.Timer(0.5, write, (site,), {"token": engine.token})
    with working(site):
        mended.start()
        until(lambda: look(site, name)["status"] == "completed")
        mended.join()
    assert look(site, name)["request_counts"] == {"total": 3, "completed": 3, "failed": 0}


def write(site: Site, **values: Any) -> None:
    with site.context.database.write() as connection:
        connection.execute(update(ENGINES).values(**values))


def test_a_cancelled_batch_keeps_what_was_answered(site: Site, tmp_path: Path) -> None:
    name = create(site, tmp_path, 400, user="slow")
    answers = site.context.scratch / name / "answers.jsonl"
    with working(site):
        until(lambda: answers.exists() and answers.stat().st_size > 0)
        assert site.client().post(f"/v1/batches/{name}/cancel").json()["status"] == "cancelling"
        until(lambda: look(site, name)["status"] == "cancelled")
    batch = look(site, name)
    told = lines_of(site, batch["output_file_id"])
    assert 0 < len(told) == batch["request_counts"]["completed"] < 400
    assert used(site)["requests"] == len(told)


def test_what_was_answered_is_kept_and_paid_where_the_model_may_not_be_asked_any_more(
    site: Site, tmp_path: Path
) -> None:
    name, answered = cut_off(site, tmp_path)
    with site.context.database.write() as connection:
        connection.execute(update(PROJECTS).values(allowed_models=["two"]))
    with working(site):
        until(lambda: look(site, name)["status"] == "failed")
    batch = look(site, name)
    assert [error["code"] for error in batch["errors"]["data"]] == ["model_not_allowed"]
    assert batch["request_counts"]["completed"] == answered == len(lines_of(site, batch["output_file_id"]))
    assert used(site) == {"input_tokens": 3 * answered, "output_tokens": 2 * answered, "requests": answered}


def test_a_batch_that_was_cut_off_in_a_line_can_be_cancelled(site: Site, tmp_path: Path) -> None:
    name, answered = cut_off(site, tmp_path)
    assert site.client().post(f"/v1/batches/{name}/cancel").json()["status"] == "cancelling"
    with working(site):
        until(lambda: look(site, name)["status"] == "cancelled")
    assert len(lines_of(site, look(site, name)["output_file_id"])) == answered


def test_a_batch_goes_on_with_the_kept_bytes_of_a_deleted_file(site: Site, tmp_path: Path) -> None:
    name = create(site, tmp_path, 30)
    file = look(site, name)["input_file_id"]
    assert site.client().delete(f"/v1/files/{file}").status_code == 200
    with site.context.database.write() as connection:
        connection.execute(update(FILES).where(FILES.c.id == file).values(deleted_at=1.0))
    remove_deleted_bytes(site.context)
    with working(site):
        until(lambda: look(site, name)["status"] in ("completed", "failed"))
    assert look(site, name)["request_counts"] == {"total": 30, "completed": 30, "failed": 0}
    remove_deleted_bytes(site.context)
    with site.context.database.read() as connection:
        assert connection.execute(select(FILES).where(FILES.c.id == file)).first() is None


def test_a_small_batch_does_not_wait_for_the_huge_ones_of_another_project(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beat, "TURN_SECONDS", 0.3)
    other = site.project("other")
    huge = [create(site, tmp_path, 160, user="slow") for _ in range(2)]
    with working(site):
        until(lambda: all(look(site, name)["status"] == "in_progress" for name in huge))
        small = create(site, tmp_path, 3, project=other)
        until(lambda: look(site, small, other)["status"] == "completed")
        assert [look(site, name)["status"] for name in huge] == ["in_progress"] * 2
        until(lambda: all(look(site, name)["status"] == "completed" for name in huge))
    for name in huge:
        told = lines_of(site, look(site, name)["output_file_id"])
        assert sorted(one["custom_id"] for one in told) == sorted(f"r{at}" for at in range(160))
    assert used(site)["requests"] == 320


def test_a_batch_whose_budget_is_spent_ends_with_what_it_has(site: Site, tmp_path: Path) -> None:
    poor = site.project("poor", budget=1.0)
    path = tmp_path / "batch.jsonl"
    body = {"model": "one", "messages": []}
    path.write_text(
        json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n"
    )
    file = keep_file(site.context, poor.id, "batch", "batch.jsonl", path)
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    name = poor.client().post("/v1/batches", json=asked).json()["id"]
    with working(site):
        until(lambda: poor.client().get(f"/v1/batches/{name}").json()["status"] == "failed")
    batch = poor.client().get(f"/v1/batches/{name}").json()
    assert batch["errors"]["data"][0]["code"] == "insufficient_quota"
    assert batch["output_file_id"] is not None


def test_an_engine_that_cannot_be_loaded_lets_a_batch_wait(site: Site, tmp_path: Path) -> None:
    name = create(site, tmp_path, 1, model="broken")
    row = take(site.context)
    assert row is not None
    work(site.context, row, threading.Event())
    with site.context.database.read() as connection:
        found = connection.execute(select(BATCHES)).one()
    assert (found.id, found.state, found.lock_token) == (name, "in_progress", None)
    assert found.lock_expires_at > site.context.now()
    with site.context.database.write() as connection:
        connection.execute(update(BATCHES).values(lock_expires_at=0))
    assert take(site.context) is not None


def kill_listener(address: str) -> None:
    """End whoever listens at an address of this machine."""
    port = int(address.rpartition(":")[2])
    for child in psutil.Process().children(recursive=True):
        if any(one.laddr.port == port for one in child.net_connections("tcp")):
            child.kill()
            return
    raise AssertionError("nobody listens there")
