"""Jobs of a service and the dispatchers that work for them, for tests.

The platform is played by a few lines that keep entries by key, as executors do; jobs, locks, files and the database are
the real ones. ``world`` and ``both`` of tests/unit/service/conftest.py are made of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from service_jobs import chat_rows, create, jobs_site, upload
from service_site import Site
from sqlalchemy import select

from tunesmith.executors.protocol import Handle, JobStatus, Submission
from tunesmith.jobs import submitted, submitting
from tunesmith.runs.events import EventWriter
from tunesmith.service.context import Context
from tunesmith.service.db.tables.jobs import JOB_EVENTS, JOBS
from tunesmith.service.dispatcher import ending
from tunesmith.service.dispatcher.claims import claim_due, renew, start_next
from tunesmith.service.dispatcher.holding import LockLostError, Tended
from tunesmith.service.dispatcher.tending import tend
from tunesmith.storage.address import open_store
from tunesmith.storage.run_store import RunStore

_END = ("succeeded", "failed", "cancelled")


class KilledError(BaseException):
    """The dispatcher's process ends here."""


@dataclass
class Cluster:
    """Keeps what was submitted, by key; work on it is done by the test. Who is to pause reads that in the store."""

    entries: dict[str, str] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
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
            self.runs[submission.key] = submission.run
            self.submissions += 1
        self._die("after")
        return {"key": submission.key}

    def status(self, handle: Handle) -> JobStatus:
        key = handle["key"]
        if self.entries[key] == "running" and "://" in self.runs[key]:
            self._obey(key)
        return JobStatus(self.entries[key])  # type: ignore[arg-type]

    def _obey(self, key: str) -> None:
        """What a worker does that was asked to pause: it ends at a checkpoint, which a cluster takes for a failure."""
        if RunStore(open_store(self.runs[key])).wish() == "pause":
            self.entries[key] = "failed"
            self.tell(key, "status", state="stopped")

    def logs(self, handle: Handle) -> Iterator[str]:
        return iter(())

    def cancel(self, handle: Handle) -> None:
        if self.entries[handle["key"]] not in _END:
            self.entries[handle["key"]] = "cancelled"
            self.tell(handle["key"], "status", state="cancelled")

    def tell(self, key: str, kind: str, step: int | None = None, /, **data: Any) -> None:
        path = self._events(key)
        last = len(path.read_text().splitlines()) if path.exists() else 0
        EventWriter(path, int(key.partition("+")[2] or 1), last + 1).emit(kind, step, **data)  # type: ignore[arg-type]
        if "://" in self.runs[key]:
            line = path.read_bytes().splitlines(keepends=True)[-1]
            RunStore(open_store(self.runs[key])).add_events(last + 1, line)

    def _events(self, key: str) -> Path:
        """The events of a run; of one in a store they are a worker's own, which it tells in pieces."""
        return Path(self.runs[key].removeprefix("file://")) / "events.jsonl"

    def work(self, key: str, end: str | None = None) -> None:
        """One step of training, or the end."""
        if self.entries.get(key) != "running":
            return
        path = self._events(key)
        done = path.read_text().count('"type":"step"') if path.exists() else 0
        self.tell(key, "step", done + 1, loss=1.5, tokens=100, total_steps=9, eta_seconds=3.0)
        if end is not None:
            self.entries[key] = end
            self.tell(key, "status", state={"succeeded": "finished"}.get(end, end))


class Platform(Cluster):
    """Pauses and goes on by itself, as the queue of this machine does."""

    def pause(self, handle: Handle) -> None:
        self.entries[handle["key"]] = "paused"
        self.tell(handle["key"], "status", state="stopped")

    def resume(self, handle: Handle) -> None:
        self.entries[handle["key"]] = "running"


@dataclass
class World:
    """A site with a platform, a clock of its own, and dispatchers that can be killed."""

    site: Site
    platform: Cluster
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
    site = jobs_site(folder, kind, **given_)
    platform = Cluster() if site.context.settings.shares_runs else Platform()
    for module in (submitted, submitting):
        patch.setattr(module, "make_executor", lambda _spec, _runs: platform)
    patch.setattr(submitting, "check_inputs", lambda *_args, **_named: None)
    # What a finished run holds is looked at by tests that really train.
    version = type("Version", (), {"name": "job", "number": 1})
    patch.setattr(ending, "register_result", lambda _context, _run: version)
    return World(site, platform)


def jobs(world: World, count: int, project: Any = None, **body: Any) -> list[str]:
    project = project or world.site.default
    client, file_id = project.client(), upload(project, chat_rows(20))
    return [create(client, file_id, **body)["id"] for _ in range(count)]


def of_a_machine(world: World, folder: Path) -> World:
    """The same service as the dispatcher of another machine sees it, with a data folder of its own."""
    other = World(world.site, world.platform, world.time)
    other.context = replace(other.context, settings=world.context.settings.model_copy(update={"data_folder": folder}))
    return other
