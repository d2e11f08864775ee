"""Whose turn it is, and that no job is lost or runs twice, whatever is killed and whoever wishes what."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_dispatch import World, jobs, make_world
from service_jobs import status
from sqlalchemy import select

from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.dispatcher.claims import LOCK_SECONDS, claim_due, release, start_next
from tunesmith.service.dispatcher.holding import LockLostError
from tunesmith.service.dispatcher.loop import Dispatcher
from tunesmith.service.dispatcher.tending import tend
from tunesmith.service.fine_tuning.places import run_of
from tunesmith.service.fine_tuning.states import STEPS, TERMINAL, Reason, State, Step, Wish, take


def test_turns_go_by_priority_then_by_fairness_then_by_age(both: World) -> None:
    world = both
    mine = jobs(world, 3)
    other = jobs(world, 2, world.site.project("other"))
    idle = jobs(world, 1, world.site.project("third"), trainingType="Developer")
    urgent = jobs(world, 1, world.site.project("urgent", priority=5))
    order = []
    while (started := start_next(world.context, None)) is not None:
        order.append(started[0])
    assert order == [urgent[0], mine[0], other[0], mine[1], other[1], mine[2], idle[0]]


def test_limits_of_jobs_at_once_are_kept(world: World) -> None:
    few = world.site.project("few", jobs_at_once=1)
    jobs(world, 3, few)
    jobs(world, 3)
    for _ in range(3):
        world.turn(most=3)
    with world.context.database.read() as connection:
        rows = connection.execute(select(JOBS.c.project_id).where(JOBS.c.state == State.RUNNING)).scalars().all()
    assert sorted(rows) == sorted([few.id, world.site.default.id, world.site.default.id])


@pytest.mark.parametrize(
    ("executor", "limit", "running"),
    [("local", None, 1), ("local", 2, 2), ("ray", None, 3), ("ray", 2, 2)],
)
def test_the_service_s_limit_holds_for_every_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str, limit: int | None, running: int
) -> None:
    limits = {} if limit is None else {"jobs_at_once": limit}
    world = make_world(tmp_path, monkeypatch, executor={"name": executor}, limits=limits)
    jobs(world, 3)
    with ThreadPoolExecutor(2) as pool:
        Dispatcher(world.context, pool).turn()
    assert sorted(world.states().values()) == sorted(["running"] * running + ["queued"] * (3 - running))
    world.context.database.close()


def test_two_dispatchers_start_each_job_once(both: World) -> None:
    jobs(both, 4)
    for _ in range(3):
        both.turn(0, most=4)
        both.turn(1, most=4)
    assert both.platform.submissions == 4
    assert not set(both.tended[0]) & set(both.tended[1])


def test_a_killed_dispatcher_is_followed_by_another(both: World) -> None:
    world = both
    (job_id,) = jobs(world, 1)
    world.platform.kills = ["after"]
    world.turn(0)
    world.turn(1)
    assert job_id not in world.tended[1], "the lock of the killed one holds"
    world.time += LOCK_SECONDS + 1
    world.turn(1)
    world.platform.work(job_id, "succeeded")
    world.turn(1)
    assert status(world.site.client(), job_id) == "succeeded"
    assert world.platform.submissions == 1


def test_a_run_that_was_half_made_is_made_anew(world: World) -> None:
    (job_id,) = jobs(world, 1)
    folder = run_of(world.context, job_id).path
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("torn")
    world.turn()
    assert world.platform.entries == {job_id: "running"}


def test_a_dispatcher_that_stops_gives_its_jobs_back(world: World) -> None:
    (job_id,) = jobs(world, 1)
    world.turn()
    release(world.context, [one.lock for one in world.tended[0].values()])
    assert set(claim_due(world.context)) == {job_id}


def test_who_lost_the_lock_writes_nothing(both: World) -> None:
    world = both
    (job_id,) = jobs(world, 1)
    world.turn(0)
    world.time += LOCK_SECONDS + 1
    late = world.tended[0][job_id]
    assert job_id in claim_due(world.context)
    world.platform.work(job_id, "succeeded")
    with pytest.raises(LockLostError):
        tend(world.context, late)
    assert world.row(job_id).state == State.RUNNING
    step = Step((State.RUNNING,), State.FAILED, Reason.WORKER_FAILED)
    with world.context.database.write() as connection:
        assert not take(connection, job_id, step, world.time, lock=late.lock)
        assert not take(connection, job_id, step, world.time)


def test_a_waiting_crowd_costs_a_turn_little(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs(world, 30)
    world.turn(most=1)
    asked: list[str] = []
    connect = world.context.database.engine.connect
    monkeypatch.setattr(world.context.database.engine, "connect", lambda: asked.append("") or connect())
    world.turn(most=1)
    assert len(asked) <= 8


def test_no_step_leads_out_of_an_end() -> None:
    assert all(not STEPS[state] for state in TERMINAL)
    assert set(STEPS) == set(State)
    reached: set[State] = set().union(*STEPS.values())
    assert reached == set(State) - {State.VALIDATING}


ACTIONS = st.one_of(
    st.tuples(st.just("turn"), st.integers(0, 1)),
    st.tuples(st.just("kill"), st.integers(0, 1)),
    st.tuples(st.just("die"), st.sampled_from(["before", "after"])),
    st.tuples(st.just("wait"), st.just(0)),
    st.tuples(st.sampled_from(["cancel", "pause", "resume"]), st.integers(0, 2)),
    st.tuples(st.just("work"), st.integers(0, 2)),
    st.tuples(st.sampled_from(["succeeded", "failed"]), st.integers(0, 2)),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, min_size=8, max_size=25))
def test_no_job_is_lost_and_none_runs_twice(world: World, actions: list[tuple[str, Any]]) -> None:
    made, client = jobs(world, 3), world.site.client()
    # Of the example before, everything has ended.
    ended, earlier = _look(world, {}), len(world.platform.entries)
    before = set(ended)
    for action, number in actions:
        _act(world, action, number, made, client.post)
        ended = _look(world, ended)
    _drain(world, made, client.post)
    ended = _look(world, ended)
    assert set(ended) - before == set(made)
    assert world.platform.submissions == len(world.platform.entries) <= earlier + len(made)
    for job_id in made:
        assert world.platform.entries.get(job_id, "cancelled") == ended[job_id]


def _act(world: World, action: str, number: Any, made: list[str], post: Callable[[str], Any]) -> None:
    if action == "turn":
        world.turn(number)
    elif action == "kill":
        world.tended[number].clear()
    elif action == "die":
        world.platform.kills = [number]
    elif action == "wait":
        world.time += LOCK_SECONDS + 1
    elif action in ("cancel", "pause", "resume"):
        post(f"/v1/fine_tuning/jobs/{made[number]}/{action}")
    else:
        world.platform.work(made[number], None if action == "work" else action)


def _look(world: World, ended: Mapping[str, str]) -> dict[str, str]:
    states = world.states()
    assert {job_id: states[job_id] for job_id in ended} == ended, "an end is the end"
    running = [job_id for job_id, state in states.items() if state == State.RUNNING]
    assert len(running) <= 2
    return {job_id: state for job_id, state in states.items() if state in TERMINAL}


def _drain(world: World, made: list[str], post: Callable[[str], Any]) -> None:
    """Let everything come to its end."""
    world.platform.kills = []
    for _ in range(12):
        world.time += LOCK_SECONDS + 1
        states = world.states()
        going = [job_id for job_id in made if states[job_id] not in TERMINAL]
        if not going:
            return
        for job_id in going:
            if states[job_id] == State.PAUSED or world.row(job_id).wish == Wish.PAUSE:
                post(f"/v1/fine_tuning/jobs/{job_id}/resume")
            world.platform.work(job_id, "succeeded")
        world.turn(0)


def test_the_platform_plays_like_an_executor(world: World) -> None:
    """What the test believes of executors, held against the queue of this machine."""
    from tunesmith.executors.local.queue import LocalQueue

    assert {name for name in vars(LocalQueue) if not name.startswith("_")} <= set(dir(world.platform))
    assert json.dumps(dict(world.platform.entries)) == "{}"
