"""What is deleted is gone from every place: data folders of all machines, the storage, the registry."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from registry_cases import add_small
from service_dispatch import World, make_world, of_a_machine
from service_jobs import create, upload
from service_site import Project
from sqlalchemy import delete, insert

from tunesmith.errors import OutputError
from tunesmith.service.db.tables.inference import BATCHES
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.dispatcher import ending
from tunesmith.service.dispatcher.claims import LOCK_SECONDS, claim_due
from tunesmith.service.dispatcher.holding import LockLostError
from tunesmith.service.dispatcher.keeping import registry_of
from tunesmith.service.files.chores import remove_batches_scratch, remove_deleted_bytes
from tunesmith.service.fine_tuning.chores import remove_leftovers, remove_old_runs, remove_stored_inputs
from tunesmith.service.fine_tuning.places import inputs_folder, run_of
from tunesmith.service.registry.chores import collect_garbage

OWN = "/tunesmith/v1"
EXECUTORS = ({"name": "local"}, {"name": "ray", "address": "http://127.0.0.1:8265"})


@pytest.fixture(params=EXECUTORS, ids=lambda one: one["name"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    made = make_world(tmp_path, monkeypatch, executor=request.param)

    def register(context: Any, run: Any) -> Any:
        weights = f"weights of {run.run.name}".encode()
        record = add_small(registry_of(context), tmp_path / "made", run.run.name, {"adapter/a.bin": weights})
        return type("Version", (), {"name": record.name, "number": record.version})

    monkeypatch.setattr(ending, "register_result", register)
    yield made
    made.context.database.close()


def rows_of(mark: str) -> list[dict[str, Any]]:
    pairs = [("user", f"{mark} ticket {{}}"), ("assistant", '{{"queue": "a"}}')]
    return [
        {"messages": [{"role": role, "content": text.format(number)} for role, text in pairs]} for number in range(20)
    ]


def job_of(project: Project, mark: str) -> tuple[str, str]:
    """A job of a project over rows that have a mark, and its file."""
    file_id = upload(project, rows_of(mark))
    return create(project.client(), file_id)["id"], file_id


def finish(world: World, *jobs: str) -> None:
    """Work as a worker does, which leaves rows in its report, and let the dispatcher see it."""
    for job_id in jobs:
        world.platform.work(job_id, "succeeded")
        run = run_of(world.context, job_id).path
        for name in ("report.json", "worker.log"):
            (run / name).write_text(f"rows of {job_id}")
    world.turn()


def places_of(folder: Path, marks: Collection[str]) -> set[str]:
    """Files whose name or content has one of some marks; the database's own file has pages of everything."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and "made" not in path.relative_to(folder).parts
        and not path.name.startswith("service.db")
        and any(mark in str(path) or mark.encode() in path.read_bytes() for mark in marks)
    }


def remove(world: World, project: Project) -> None:
    assert world.site.operator.post(f"{OWN}/projects/{project.id}/archive").status_code == 200
    answer = world.site.operator.delete(f"{OWN}/projects/{project.id}")
    assert answer.json() == {**answer.json(), "deleted": True}


def test_a_deleted_project_leaves_nothing_on_any_machine(world: World, tmp_path: Path) -> None:
    gone, stays = world.site.project("gone"), world.site.project("stays")
    (mine, _), (theirs, _) = job_of(gone, "zebra"), job_of(stays, "gnu")
    world.turn()
    shares = world.context.settings.shares_runs
    if shares:
        # Its machine died, and another one took the jobs over.
        elsewhere = of_a_machine(world, tmp_path / "elsewhere")
        elsewhere.time += LOCK_SECONDS + 1
        elsewhere.turn()
        assert run_of(elsewhere.context, mine).path.is_dir()
        finish(elsewhere, mine, theirs)
    else:
        finish(world, mine, theirs)
    assert [world.row(one).state for one in (mine, theirs)] == ["succeeded"] * 2
    for project, mark in ((gone, "zebra"), (stays, "gnu")):
        world.context.storage.write(f"projects/{project.id}/evaluations/eval_1/report.json", mark.encode())
    there = places_of(tmp_path, (theirs, "gnu"))
    assert places_of(tmp_path, (mine, "zebra"))
    remove(world, gone)
    machines = [world, elsewhere] if shares else [world]
    for machine in machines:
        remove_leftovers(machine.context)
    collect_garbage(world.context)
    # The number of a version is never given again.
    number = f"storage/registry/models/{mine}/versions/00000001"
    assert places_of(tmp_path, (mine, "zebra", gone.id)) == {f"{number}/claim.json", f"{number}/removed.json"}
    # Inputs of a job that has ended go in any case.
    inputs = {one for one in there if "/inputs/" in one}
    assert places_of(tmp_path, (theirs, "gnu")) == there - inputs
    assert any(b"weights of " + theirs.encode() == path.read_bytes() for path in tmp_path.rglob("blobs/*/*/*"))


def test_inputs_go_when_a_job_ends_and_rows_of_a_deleted_file_are_nowhere(world: World, tmp_path: Path) -> None:
    job_id, file_id = job_of(world.site.default, "zebra")
    world.turn()
    assert world.site.client().delete(f"/v1/files/{file_id}").status_code == 200
    assert places_of(tmp_path, ("zebra",)), "a job that runs needs them"
    finish(world, job_id)
    world.time += 1000
    remove_deleted_bytes(world.context)
    assert places_of(tmp_path, ("zebra",)) == set()
    assert run_of(world.context, job_id).path.is_dir()


def test_a_job_that_waits_goes_on_with_the_kept_bytes_of_a_deleted_file(world: World, tmp_path: Path) -> None:
    job_id, file_id = job_of(world.site.default, "zebra")
    assert world.site.client().delete(f"/v1/files/{file_id}").status_code == 200
    world.time += 1000
    remove_deleted_bytes(world.context)
    world.turn()
    assert world.row(job_id).state == "running"
    finish(world, job_id)
    assert world.row(job_id).state == "succeeded"
    remove_deleted_bytes(world.context)
    assert places_of(tmp_path, ("zebra",)) == set()


def test_inputs_go_however_a_job_ends(world: World) -> None:
    ends = {job_of(world.site.default, "zebra")[0]: end for end in ("failed", "cancelled")}
    world.turn()
    assert all(inputs_folder(world.context, job_id).is_dir() for job_id in ends)
    for job_id, end in ends.items():
        world.platform.work(job_id, end)
    world.turn()
    for job_id, end in ends.items():
        assert world.row(job_id).state == end
        assert not inputs_folder(world.context, job_id).exists()
        assert list(world.context.storage.walk(f"runs/{job_id}/inputs")) == []


def test_who_lost_the_lock_takes_no_rows(world: World) -> None:
    job_id, _ = job_of(world.site.default, "zebra")
    world.turn()
    late = world.tended[0][job_id]
    world.time += LOCK_SECONDS + 1
    assert job_id in claim_due(world.context)
    with pytest.raises(LockLostError):
        ending.fail(world.context, late, world.row(job_id), {"code": "late", "message": "too late", "param": None})
    assert inputs_folder(world.context, job_id).is_dir()
    shares = world.context.settings.shares_runs
    assert bool(list(world.context.storage.walk(f"runs/{job_id}/inputs"))) == shares


def test_rows_that_could_not_be_removed_go_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, _ = job_of(world.site.default, "zebra")
    world.turn()

    def full(*_: object) -> None:
        raise OutputError("the disk is full", code="output.write")

    with monkeypatch.context() as patch:
        patch.setattr(ending, "remove_inputs", full)
        finish(world, job_id)
    assert world.row(job_id).state == "succeeded"
    assert inputs_folder(world.context, job_id).is_dir()
    remove_leftovers(world.context)
    remove_stored_inputs(world.context)
    assert not inputs_folder(world.context, job_id).exists()
    assert list(world.context.storage.walk(f"runs/{job_id}/inputs")) == []


def test_inputs_that_are_paused_stay_and_of_a_job_that_ended_elsewhere_go(world: World) -> None:
    client, (job_id, _) = world.site.client(), job_of(world.site.default, "zebra")
    world.turn()
    client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
    for _ in range(2):
        world.turn()
    remove_leftovers(world.context)
    assert (world.row(job_id).state, inputs_folder(world.context, job_id).is_dir()) == ("paused", True)
    other = of_a_machine(world, world.context.settings.data_folder.with_name("other"))
    client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    world.platform.cancel({"key": job_id})
    for _ in range(2):
        other.turn()
    assert world.row(job_id).state == "cancelled"
    assert inputs_folder(world.context, job_id).is_dir()
    remove_leftovers(world.context)
    assert not inputs_folder(world.context, job_id).exists()


def test_retention_takes_runs_and_reports_and_leaves_the_job(world: World, tmp_path: Path) -> None:
    project = world.site.project("short", retention_days=30)
    client, (job_id, _) = project.client(), job_of(project, "zebra")
    world.turn()
    finish(world, job_id)
    remove_old_runs(world.context)
    report = f"{OWN}/jobs/{job_id}/report"
    assert client.get(report).status_code == 200
    world.time += 31 * 86_400
    remove_old_runs(world.context)
    assert client.get(report).status_code == 404
    assert places_of(tmp_path, (f"rows of {job_id}",)) == set()
    assert list(world.context.storage.walk(f"runs/{job_id}")) == []
    job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert job["status"] == "succeeded"
    assert client.get(f"/v1/models/{job['fine_tuned_model']}").status_code == 200
    assert client.get(f"/v1/files/{job['result_files'][0]}/content").status_code == 200
    # A machine that has a copy sees by the job that it goes.
    other = of_a_machine(world, tmp_path / "other")
    copy = run_of(other.context, job_id).path
    copy.mkdir(parents=True)
    remove_leftovers(other.context)
    assert not copy.exists()


@pytest.mark.parametrize("world", EXECUTORS[:1], indirect=True)
def test_runs_of_another_database_are_let_alone(world: World) -> None:
    job_id, _ = job_of(world.site.default, "zebra")
    world.turn()
    with world.context.database.write() as connection:
        connection.execute(delete(JOBS).where(JOBS.c.id == job_id))
    remove_leftovers(world.context)
    assert run_of(world.context, job_id).path.is_dir()


@pytest.mark.parametrize("world", EXECUTORS[:1], indirect=True)
def test_answers_of_batches_go_from_the_scratch(world: World) -> None:
    project, context = world.site.project("gone"), world.context
    row = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": "file-1", "created_at": 1.0}
    states = {"batch_on": "in_progress", "batch_over": "cancelled", "batch_gone": "in_progress"}
    with context.database.write() as connection:
        for name, state in states.items():
            owner = project.id if name == "batch_gone" else world.site.default.id
            values = {"id": name, "project_id": owner, "state": state, "moments": {}, "expires_at": 2.0, **row}
            connection.execute(insert(BATCHES).values(total=1, completed=0, failed=0, **values))
    for name in states:
        (context.scratch / name).mkdir()
        (context.scratch / name / "answers.jsonl").write_text(json.dumps({"secret": name}))
    path = f"{OWN}/projects/{project.id}"
    assert world.site.operator.post(f"{path}/archive").json()["error"]["code"] == "batches_open"
    with context.database.write() as connection:
        connection.execute(BATCHES.update().where(BATCHES.c.id == "batch_gone").values(state="completed"))
    remove(world, project)
    remove_batches_scratch(context)
    assert {one.name for one in context.scratch.glob("batch_*")} == {"batch_on"}
