"""The dispatcher: whose turn it is, and that no job is lost or runs twice, whatever is killed and whoever wishes what.

The platform is played by a few lines that keep entries by key, as executors do; jobs, locks, files and the database are
the real ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_jobs import chat_rows, create, jobs_site, pair_rows, status, upload
from service_site import DATABASES, Site
from sqlalchemy import insert, select, update

from tunesmith.errors import OutputError
from tunesmith.executors.protocol import Handle, JobStatus, Submission
from tunesmith.jobs import submitted, submitting
from tunesmith.runs.events import Event, EventWriter
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.jobs import JOB_EVENTS, JOBS
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.dispatcher import tending
from tunesmith.service.dispatcher.budgets import keep_running_jobs
from tunesmith.service.dispatcher.claims import LOCK_SECONDS, claim_due, release, renew, start_next
from tunesmith.service.dispatcher.keeping import tuned_name
from tunesmith.service.dispatcher.reading import read_progress
from tunesmith.service.dispatcher.tending import LockLostError, Tended, tend
from tunesmith.service.fine_tuning import create as creating
from tunesmith.service.fine_tuning.chores import remove_old_runs
from tunesmith.service.fine_tuning.places import inputs_folder, run_of
from tunesmith.service.fine_tuning.states import STEPS, TERMINAL, Reason, State, Step, Wish, take

_END = ("succeeded", "failed", "cancelled")


class KilledError(BaseException):
    """The dispatcher's process ends here."""


@dataclass
class Platform:
    """Keeps what was submitted, by key; work on it is done by the test."""

    entries: dict[str, str] = field(default_factory=dict)
    runs: dict[str, Path] = field(default_factory=dict)
    submissions: int = 0
    kills: list[str] = field(default_factory=list)

    def _die(self, where: str) -> None:
        if self.kills and self.kills[0] == where:
            self.kills.pop(0)
            raise KilledError

    def submit(self, submission: Submission) -> Handle:
        self._die("before")
        if submission.key not in self.entries:
            self.entries[submission.key] = "running"
            self.runs[submission.key] = Path(submission.run)
            self.submissions += 1
        self._die("after")
        return {"key": submission.key}

    def status(self, handle: Handle) -> JobStatus:
        return JobStatus(self.entries[handle["key"]])  # type: ignore[arg-type]

    def logs(self, handle: Handle) -> Iterator[str]:
        return iter(())

    def cancel(self, handle: Handle) -> None:
        if self.entries[handle["key"]] not in _END:
            self.entries[handle["key"]] = "cancelled"
            self.tell(handle["key"], "status", state="cancelled")

    def pause(self, handle: Handle) -> None:
        self.entries[handle["key"]] = "paused"
        self.tell(handle["key"], "status", state="stopped")

    def resume(self, handle: Handle) -> None:
        self.entries[handle["key"]] = "running"

    def tell(self, key: str, kind: str, step: int | None = None, **data: Any) -> None:
        path = self.runs[key] / "events.jsonl"
        last = len(path.read_text().splitlines()) if path.exists() else 0
        EventWriter(path, 1, last + 1).emit(kind, step, **data)  # type: ignore[arg-type]

    def work(self, key: str, end: str | None = None) -> None:
        """One step of training, or the end."""
        if self.entries.get(key) != "running":
            return
        path = self.runs[key] / "events.jsonl"
        done = path.read_text().count('"type":"step"') if path.exists() else 0
        self.tell(key, "step", done + 1, loss=1.5, tokens=100, total_steps=9, eta_seconds=3.0)
        if end is not None:
            self.entries[key] = end
            self.tell(key, "status", state={"succeeded": "finished"}.get(end, end))


@dataclass
class World:
    """A site with a platform, a clock of its own, and dispatchers that can be killed."""

    site: Site
    platform: Platform
    time: float = field(default_factory=time.time)
    tended: list[dict[str, Tended]] = field(default_factory=lambda: [{}, {}])

    def __post_init__(self) -> None:
        self.context: Context = replace(self.site.context, now=lambda: self.time)

    def turn(self, number: int = 0, most: int | None = 2) -> None:
        """One turn of a dispatcher, as its process does it."""
        mine = self.tended[number]
        try:
            for job_id in renew(self.context, {one.id: one.lock for one in mine.values()}):
                del mine[job_id]
            for job_id, lock in claim_due(self.context).items():
                mine[job_id] = Tended(job_id, lock)
            while (started := start_next(self.context, most)) is not None:
                mine[started[0]] = Tended(*started)
            for job_id, one in list(mine.items()):
                try:
                    goes_on = tend(self.context, one)
                except LockLostError:
                    goes_on = False
                if not goes_on:
                    del mine[job_id]
        except KilledError:
            mine.clear()

    def states(self) -> dict[str, str]:
        with self.context.database.read() as connection:
            return {row.id: row.state for row in connection.execute(select(JOBS.c.id, JOBS.c.state))}

    def row(self, job_id: str) -> Any:
        with self.context.database.read() as connection:
            return connection.execute(select(JOBS).where(JOBS.c.id == job_id)).one()

    def messages(self, job_id: str) -> list[str]:
        with self.context.database.read() as connection:
            query = select(JOB_EVENTS.c.message).where(JOB_EVENTS.c.job_id == job_id).order_by(JOB_EVENTS.c.id)
            return list(connection.execute(query).scalars())


def make_world(folder: Path, patch: pytest.MonkeyPatch, kind: str = "sqlite", **given_: Any) -> World:
    site, platform = jobs_site(folder, kind, **given_), Platform()
    for module in (submitted, submitting):
        patch.setattr(module, "make_executor", lambda _spec, _runs: platform)
    patch.setattr(submitting, "check_inputs", lambda *_args, **_named: None)
    # What a finished run holds is looked at by tests that really train.
    version = type("Version", (), {"name": "job", "number": 1})
    patch.setattr(tending, "register_result", lambda _context, _run: version)
    return World(site, platform)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = make_world(tmp_path, monkeypatch)
    yield made
    made.context.database.close()


@pytest.fixture(params=DATABASES)
def both(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = make_world(tmp_path, monkeypatch, request.param)
    yield made
    made.context.database.close()


def jobs(world: World, count: int, project: Any = None, **body: Any) -> list[str]:
    project = project or world.site.default
    client, file_id = project.client(), upload(project, chat_rows(20))
    return [create(client, file_id, **body)["id"] for _ in range(count)]


def test_a_job_is_followed_to_its_end(both: World) -> None:
    world, client = both, both.site.client()
    (job_id,) = jobs(world, 1)
    world.turn()
    assert status(client, job_id) == "running"
    world.platform.tell(job_id, "status", state="started")
    world.platform.work(job_id)
    world.platform.tell(job_id, "evaluation", 1, loss=1.2)
    world.turn()
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
    assert table.splitlines()[1] == "1,1.5,,1.2,,1.2,"
    with world.context.database.read() as connection:
        used = connection.execute(select(USAGE.c.kind, USAGE.c.model, USAGE.c.quantity)).all()
    assert [tuple(row) for row in used] == [("trained_tokens", "tiny", 200)]


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


def test_a_name_of_a_model_has_only_letters_that_names_may_have(world: World) -> None:
    (job_id,) = jobs(world, 1, suffix="My model: v1.2/b")
    assert tuned_name(world.context, world.row(job_id)) == f"ft:tiny:tunesmith:My-model-v1-2-b:{job_id[-8:]}"


def test_a_full_disk_costs_no_result(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (job_id,) = jobs(world, 1)
    world.turn()
    world.platform.work(job_id, "succeeded")
    whole = tending.keep_results

    def full(*_args: Any) -> str:
        raise OutputError("the disk is full")

    monkeypatch.setattr(tending, "keep_results", full)
    world.turn()
    assert world.row(job_id).state == State.RUNNING
    monkeypatch.setattr(tending, "keep_results", whole)
    world.time += 60
    world.turn()
    assert world.row(job_id).state == State.SUCCEEDED


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


def test_a_running_job_is_paused_resumed_and_cancelled(world: World) -> None:
    client, (job_id,) = world.site.client(), jobs(world, 1)
    world.turn()
    for action, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        client.post(f"/v1/fine_tuning/jobs/{job_id}/{action}")
        for _ in range(3):
            world.turn()
        assert status(client, job_id) == state
    assert world.platform.submissions == 1


def test_a_job_that_is_paused_on_a_platform_is_ended_there(world: World) -> None:
    client, (job_id,) = world.site.client(), jobs(world, 1)
    world.turn()
    client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
    world.turn()
    client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    world.turn()
    assert status(client, job_id) == "cancelled"
    assert world.platform.entries[job_id] == "cancelled"


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


def test_runs_are_removed_after_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path, monkeypatch, job_retention_days=30)
    client, (job_id,) = world.site.client(), jobs(world, 1)
    world.turn()
    world.platform.work(job_id, "succeeded")
    (run_of(world.context, job_id).path / "report.json").write_text("{}")
    world.turn()
    remove_old_runs(world.context)
    assert run_of(world.context, job_id).path.is_dir()
    world.time += 31 * 86_400
    remove_old_runs(world.context)
    assert not run_of(world.context, job_id).path.exists()
    assert not inputs_folder(world.context, job_id).exists()
    assert client.get(f"/tunesmith/v1/jobs/{job_id}/report").text == "{}"


def test_a_waiting_crowd_costs_a_turn_little(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs(world, 30)
    world.turn(most=1)
    asked: list[str] = []
    connect = world.context.database.engine.connect
    monkeypatch.setattr(world.context.database.engine, "connect", lambda: asked.append("") or connect())
    world.turn(most=1)
    assert len(asked) <= 8


def test_steps_that_were_done_again_count_once() -> None:
    def step(seq: int, number: int) -> Event:
        return Event(seq, 1, "", "step", number, {"loss": 1.0, "tokens": 10, "total_steps": 4})

    first = read_progress([step(1, 1), step(2, 2)], after=0, counted_step=0)
    assert (first.tokens, first.counted_step, first.seq) == (20, 2, 2)
    again = read_progress([step(1, 1), step(2, 2), step(3, 2), step(4, 3)], after=2, counted_step=2)
    assert (again.tokens, again.counted_step, len(again.lines)) == (10, 3, 2)


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
