"""What becomes of a job that a dispatcher works for: what it tells, how it ends, and what is left of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from service_dispatch import World, jobs
from service_jobs import create, pair_rows, status, upload
from sqlalchemy import select, update

from tunesmith.errors import OutputError
from tunesmith.runs.events import Event
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.db.tables.keeping import DELIVERIES
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.dispatcher import ending, tending
from tunesmith.service.dispatcher.keeping import tuned_name
from tunesmith.service.dispatcher.reading import read_progress
from tunesmith.service.fine_tuning import create as creating
from tunesmith.service.fine_tuning.places import inputs_folder
from tunesmith.service.fine_tuning.states import State
from tunesmith.service.shared.telling import EVENTS


def test_a_job_is_followed_to_its_end(both: World) -> None:
    world, client = both, both.site.client()
    (job_id,) = jobs(world, 1)
    world.turn()
    assert status(client, job_id) == "running"
    world.platform.tell(job_id, "status", state="started")
    world.platform.work(job_id)
    world.platform.tell(job_id, "evaluation", 1, loss=1.2, accuracy=0.75)
    world.turn()
    # What the page shows while it runs: three seconds are left, counted from this look.
    going = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert going["status"] == "running"
    assert going["estimated_finish"] == pytest.approx(world.time + 3.0, abs=1.0)
    (step,) = [line for line in events_of(client, job_id) if "total_steps" in (line["data"] or {})]
    assert (step["data"]["step"], step["data"]["train_loss"], step["data"]["seconds_left"]) == (1, 1.5, 3.0)
    world.platform.work(job_id, "succeeded")
    world.turn()
    job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert (job["status"], job["trained_tokens"], job["estimated_finish"]) == ("succeeded", 200, None)
    assert job["fine_tuned_model"] == f"ft:tiny:tunesmith::{job_id[-8:]}"
    assert world.messages(job_id)[3:] == [
        "Fine-tuning job started",
        "Step 1/9: training loss=1.50",
        "Step 1: training loss=1.50, full validation loss=1.20",
        "Step 2/9: training loss=1.50",
        f"New fine-tuned model created: {job['fine_tuned_model']}",
        "The job has successfully completed",
    ]
    (file_id,) = job["result_files"]
    table = world.site.file_bytes(file_id).decode()
    assert table.splitlines()[1] == "1,1.5,,1.2,0.75,1.2,0.75"
    with world.context.database.read() as connection:
        used = connection.execute(select(USAGE.c.kind, USAGE.c.model, USAGE.c.quantity)).all()
    assert [tuple(row) for row in used] == [("trained_tokens", "tiny", 200)]


def events_of(client: httpx.Client, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"]
    return found


def numbers_of(world: World, job_id: str) -> tuple[Any, Any, Any]:
    job = world.site.client().get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert job["method"]["supervised"]["hyperparameters"] == job["hyperparameters"]
    return tuple(job["hyperparameters"][name] for name in ("n_epochs", "batch_size", "learning_rate_multiplier"))  # type: ignore[return-value]


def test_a_budget_s_hyperparameters_are_numbers_once_the_run_has_chosen_them(both: World) -> None:
    world = both
    (job_id,) = jobs(world, 1, tunesmith={"budget": "10m"})
    world.turn()
    assert numbers_of(world, job_id) == ("auto", "auto", 1.0)
    world.platform.tell(job_id, "artifact", kind="resolved", path="resolved.json", epochs=3.0, rows_per_step=3.6)
    world.turn()
    assert numbers_of(world, job_id) == (3, 4, 1.0)
    # Time allows for less: five steps an epoch, eleven in all.
    world.platform.tell(job_id, "step", 1, loss=1.5, tokens=100, total_steps=11, epoch=0.2)
    world.turn()
    assert numbers_of(world, job_id) == (2, 4, 1.0)
    world.platform.work(job_id, "succeeded")
    world.turn()
    assert numbers_of(world, job_id)[1] == 4


def test_hyperparameters_are_numbers_where_a_platform_tells_its_steps_and_no_more(world: World) -> None:
    timed, plain = jobs(world, 1, tunesmith={"budget": "10m"})[0], jobs(world, 1)[0]
    for _ in range(2):
        world.turn()
        world.platform.work(timed)
        world.platform.work(plain)
    world.turn()
    epochs, rows, _ = numbers_of(world, timed)
    assert (epochs, rows) == (3, round(18 * 3 / 9))
    assert numbers_of(world, plain) == (5, 10, 1.0)


def test_hyperparameters_that_were_asked_for_stay(world: World) -> None:
    asked = {"n_epochs": 7, "batch_size": 2, "learning_rate_multiplier": 0.5}
    (job_id,) = jobs(world, 1, hyperparameters=asked, tunesmith={"budget": "10m"})
    world.turn()
    world.platform.tell(job_id, "artifact", kind="resolved", path="resolved.json", epochs=7.0, rows_per_step=2.3)
    world.platform.tell(job_id, "step", 1, loss=1.5, tokens=100, total_steps=9, epoch=0.2)
    world.turn()
    assert numbers_of(world, job_id) == (7, 2, 0.5)


def test_a_name_of_a_model_has_only_letters_that_names_may_have(world: World) -> None:
    (job_id,) = jobs(world, 1, suffix="My model: v1.2/b")
    assert tuned_name(world.context, world.row(job_id)) == f"ft:tiny:tunesmith:My-model-v1-2-b:{job_id[-8:]}"


def test_a_full_disk_costs_no_result(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (job_id,) = jobs(world, 1)
    world.turn()
    world.platform.work(job_id, "succeeded")
    whole = ending.keep_results

    def full(*_args: Any) -> str:
        raise OutputError("the disk is full")

    monkeypatch.setattr(ending, "keep_results", full)
    world.turn()
    assert world.row(job_id).state == State.RUNNING
    monkeypatch.setattr(ending, "keep_results", whole)
    world.time += 60
    world.turn()
    assert world.row(job_id).state == State.SUCCEEDED


def test_a_running_job_is_paused_resumed_and_cancelled(world: World) -> None:
    client, (job_id,) = world.site.client(), jobs(world, 1)
    world.turn()
    for action, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        client.post(f"/v1/fine_tuning/jobs/{job_id}/{action}")
        for _ in range(3):
            world.turn()
        assert status(client, job_id) == state
    assert world.platform.submissions == 1


def test_webhooks_are_told_of_every_step_and_checkpoint_once(both: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a checkpoint holds is looked at by tests that really train."""
    world, client = both, both.site.client()
    hook = {"url": "https://example.org/hook", "events": list(EVENTS)}
    assert world.site.client("admin").post("/tunesmith/v1/webhooks", json=hook).status_code == 200
    version = SimpleNamespace(name="job", number=1)
    monkeypatch.setattr(tending, "new_checkpoints", lambda *_: [8])
    monkeypatch.setattr(tending, "keep", lambda *_: {8: version})
    (job_id,) = jobs(world, 1)
    for action in (None, "pause", "resume", "cancel"):
        if action is not None:
            assert client.post(f"/v1/fine_tuning/jobs/{job_id}/{action}").status_code == 200
        world.turn()
        world.turn()
    with world.context.database.read() as connection:
        sent = connection.execute(select(DELIVERIES).order_by(DELIVERIES.c.id)).all()
    assert [row.event.removeprefix("fine_tuning.job.") for row in sent] == [
        "created",
        "running",
        "checkpoint.created",
        "paused",
        "resumed",
        "running",
        "cancelled",
    ]
    assert {row.payload["data"]["id"] for row in sent} == {job_id}
    name = f"{tuned_name(world.context, world.row(job_id))}:ckpt-step-8"
    checkpoint = {"id": job_id, "step_number": 8, "fine_tuned_model_checkpoint": name}
    assert sent[2].payload["data"] == checkpoint


def test_a_job_that_is_paused_on_a_platform_is_ended_there(world: World) -> None:
    client, (job_id,) = world.site.client(), jobs(world, 1)
    world.turn()
    client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
    world.turn()
    client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    world.turn()
    assert status(client, job_id) == "cancelled"
    assert world.platform.entries[job_id] == "cancelled"


def test_an_error_that_nobody_foresaw_holds_a_place_for_a_while_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any, **_named: Any) -> None:
        raise KeyError("secret place")

    (job_id,) = jobs(world, 1)
    monkeypatch.setattr(tending, "read_progress", broken)
    for _ in range(30):
        world.turn()
        world.time += 61
    row = world.row(job_id)
    assert (row.state, row.error["code"]) == (State.FAILED, "internal_error")
    assert "secret" not in row.error["message"]


def test_a_base_that_is_offered_no_more_ends_a_job_whose_files_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "READ_AT_ONCE_BYTES", 10)
    (job_id,) = jobs(world, 1)
    with world.context.database.write() as connection:
        connection.execute(update(JOBS).values(base="gone"))
    world.turn()
    assert (world.row(job_id).state, world.row(job_id).error["code"]) == (State.FAILED, "model_not_found")


def test_what_the_worker_says_is_told_without_places_of_this_machine(world: World) -> None:
    client, (job_id,) = world.site.client(), jobs(world, 1)
    world.turn()
    place = f"{inputs_folder(world.context, job_id).absolute()}/training.jsonl:3"
    world.platform.tell(
        job_id, "error", **{"class": "SupervisionError", "code": "supervision.empty", "message": "bad", "place": place}
    )
    world.platform.work(job_id, "failed")
    world.turn()
    job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert job["status"] == "failed"
    assert job["error"]["code"] == "invalid_training_file"
    assert job["error"]["message"].startswith("training.jsonl:3: bad")
    assert job["trained_tokens"] == 100


def test_large_files_are_looked_at_while_the_job_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creating, "READ_AT_ONCE_BYTES", 10)
    client, good = world.site.client(), jobs(world, 1)[0]
    bad = create(client, upload(world.site.default, pair_rows(20)))["id"]
    assert [status(client, one) for one in (good, bad)] == ["validating_files"] * 2
    world.turn(most=0)
    assert [status(client, one) for one in (good, bad)] == ["queued", "failed"]
    assert client.get(f"/v1/fine_tuning/jobs/{good}").json()["hyperparameters"]["n_epochs"] == 5
    assert client.get(f"/v1/fine_tuning/jobs/{bad}").json()["error"]["param"] == "training_file"


def test_steps_that_were_done_again_count_once() -> None:
    def step(seq: int, number: int) -> Event:
        return Event(seq, 1, "", "step", number, {"loss": 1.0, "tokens": 10, "total_steps": 4})

    first = read_progress([step(1, 1), step(2, 2)], after=0, counted_step=0)
    assert (first.tokens, first.counted_step, first.seq) == (20, 2, 2)
    again = read_progress([step(1, 1), step(2, 2), step(3, 2), step(4, 3)], after=2, counted_step=2)
    assert (again.tokens, again.counted_step, len(again.lines)) == (10, 3, 2)
