"""Budgets of projects while their jobs run."""

from __future__ import annotations

from pathlib import Path

import pytest
from service_dispatch import World, jobs, make_world
from service_jobs import status
from sqlalchemy import insert, update

from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.dispatcher.budgets import keep_running_jobs
from tunesmith.service.fine_tuning.states import Reason, State, Wish


@pytest.mark.parametrize("action", ["stop", "pause"])
def test_a_spent_budget_ends_or_pauses_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    world = make_world(tmp_path, monkeypatch, prices={"tiny": {"trained_tokens": 1000.0}})
    client, (job_id,) = world.site.client(), jobs(world, 1)
    with world.context.database.write() as connection:
        connection.execute(update(PROJECTS).values(budget=0.15, budget_action=action))
    for _ in range(3):
        world.turn()
        world.platform.work(job_id)
    for _ in range(3):
        world.turn()
    assert status(client, job_id) == {"stop": "cancelled", "pause": "paused"}[action]
    wanted = {"stop": Reason.CANCELLED_BY_BUDGET, "pause": Reason.PAUSED_BY_BUDGET}[action]
    assert world.row(job_id).reason == wanted
    job = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert job["error"]["code"] == "insufficient_quota"
    assert len([one for one in world.messages(job_id) if one.startswith("The project's budget of 0.15 ")]) == 1
    if action == "stop":
        assert world.platform.entries[job_id] == "cancelled"
        return
    path = f"/v1/fine_tuning/jobs/{job_id}/resume"
    assert client.post(path).json()["error"]["code"] == "insufficient_quota"
    with world.context.database.write() as connection:
        connection.execute(update(PROJECTS).values(budget=100))
    assert client.post(path).json()["error"] is None
    world.turn()
    client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
    world.turn()
    assert world.row(job_id).reason == Reason.PAUSED_BY_USER


@pytest.mark.parametrize(("action", "end"), [("stop", "cancelled"), ("pause", "paused")])
def test_a_job_that_tells_nothing_is_held_to_a_budget_that_something_else_spends(
    both: World, action: str, end: str
) -> None:
    world, other = both, both.site.project("other", budget=1.0)
    (job_id,), (others,) = jobs(world, 1), jobs(world, 1, other)
    with world.context.database.write() as connection:
        mine = PROJECTS.c.id == world.site.default.id
        connection.execute(update(PROJECTS).where(mine).values(budget=1.0, budget_action=action))
    world.turn()
    keep_running_jobs(world.context)
    assert world.row(job_id).wish == Wish.RUN
    waits = jobs(world, 1)[0]
    spend(world, world.site.default.id, 1.0)
    keep_running_jobs(world.context)
    world.turn(most=None)
    assert (world.row(job_id).state, world.row(others).state) == (end, State.RUNNING)
    assert world.row(waits).state == State.QUEUED, "jobs that wait begin when there is budget again"
    with world.context.database.write() as connection:
        connection.execute(update(PROJECTS).values(budget=2.0))
    world.turn(most=None)
    assert world.row(waits).state == State.RUNNING


def spend(world: World, project_id: str, cost: float) -> None:
    """Let a project have used something of a price in this hour."""
    row = {"project_id": project_id, "kind": "input_tokens", "model": "tiny", "key_id": "", "quantity": 1, "cost": cost}
    with world.context.database.write() as connection:
        connection.execute(insert(USAGE).values(hour=int(world.time // 3600), **row))
