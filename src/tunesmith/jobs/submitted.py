"""Jobs that were submitted: how they are, what they printed, and what may be done with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError, WorkerError, from_json
from tunesmith.executors.protocol import ENDED, Executor, JobStatus, Pauses, Tells
from tunesmith.executors.table import make_executor
from tunesmith.jobs.bases import bring_base
from tunesmith.jobs.states import RunStatus, run_status
from tunesmith.recipe.load import load_recipe
from tunesmith.runs.atomic import read_json, telling_output_errors, write_json
from tunesmith.runs.control import Wish, read_wish, write_wish
from tunesmith.runs.events import Event, EventWriter, last_state, open_events, read_events
from tunesmith.runs.layout import RunFolder, find_run, list_runs
from tunesmith.runs.lease import lock
from tunesmith.storage.address import open_store
from tunesmith.storage.mirror import pull_events, pull_files
from tunesmith.storage.run_store import JOB, RunStore

_POLL_SECONDS = 1.0
# Checkpoints stay where the worker left them, and so do answers that only a resumed worker needs.
_LEFT_THERE = ("checkpoints/", "evaluation/", "base/")


@dataclass(frozen=True)
class Job:
    """A run that was submitted.

    Attributes:
        run: Its folder on this machine.
        record: What job.json says.
        executor: Who does it.
    """

    run: RunFolder
    record: Mapping[str, Any]
    executor: Executor

    @property
    def handle(self) -> Mapping[str, Any]:
        """What the executor finds it by.

        Raises:
            RunError: ``job.not_sent``: the submission broke off.
        """
        handle = self.record["handle"]
        if handle is None:
            raise RunError(
                "the job was not submitted to its end",
                code="job.not_sent",
                place=self.run.name,
                hint=f"submit it again with --key {self.record['key']}",
            )
        found: Mapping[str, Any] = handle
        return found

    @property
    def store(self) -> RunStore | None:
        """Where its worker leaves what it does; None where that is the run's folder."""
        url = self.record["run"]
        return None if url is None else RunStore(open_store(url))


@dataclass(frozen=True)
class JobView:
    """A job at one moment: as its executor sees it, and as its run tells it."""

    job: Job
    status: JobStatus
    run: RunStatus

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "job": self.job.run.name,
            "executor": self.job.record["executor"]["name"],
            "state": self.status.state,
            "words": self.status.words,
            "reason": self.status.reason,
            "key": self.job.record["key"],
            "run": self.job.record["run"] or str(self.job.run.path),
            "handle": self.job.record["handle"],
            "submitted": self.job.record["submitted"],
            "progress": self.run.to_json(),
        }


def find_job(runs_folder: Path, name: str) -> Job:
    """A job by its run's name or folder.

    Raises:
        RunError: There is no such run, or it was not submitted.
    """
    run = find_run(runs_folder, name)
    if not (run.path / JOB).is_file():
        raise RunError(
            "this run was not submitted",
            code="job.none",
            place=run.name,
            hint=f"it is a run of this machine; see `tunesmith runs show {run.name}`",
        )
    recipe = load_recipe(run.recipe)
    return Job(run, read_json(run.path / JOB), make_executor(recipe.executor, run.path.parent))


def list_jobs(runs_folder: Path) -> list[JobView]:
    """All jobs of a folder of runs, oldest first, each asked how it is."""
    found = [run for run in list_runs(runs_folder) if (run.path / JOB).is_file()]
    return [look(find_job(runs_folder, run.name)) for run in found]


def look(job: Job) -> JobView:
    """Ask how a job is, and bring what its worker has told since.

    Raises:
        NetworkError: The platform or the store does not answer.
    """
    if job.record["handle"] is None:
        return JobView(job, JobStatus("lost", "not submitted to its end"), run_status(job.run))
    status = job.executor.status(job.handle)
    refresh(job, status)
    return JobView(job, _as_told(job, status), _run_of(job, status))


def refresh(job: Job, status: JobStatus) -> None:
    """Bring events and, once the job has ended, results into the run's folder."""
    store = job.store
    if store is not None:
        pull_events(store, job.run)
        over = status.state in ENDED
        pull_files(store, job.run, lambda path: not path.startswith(_LEFT_THERE) and (over or _comes_early(path)))
        if over and job.run.adapter.is_dir():
            bring_base(store, job.run, job.record)
    elif isinstance(job.executor, Tells):
        _take_down(job, job.executor)


def _comes_early(path: str) -> bool:
    """Whether a file is wanted while the job goes on.

    Not the manifest: a run that has one is whole, and the platform may call a job running whose worker has put its own.
    """
    return "/" not in path and path != "manifest.json"


def logs(job: Job) -> Iterator[str]:
    """What the job has printed so far."""
    yield from job.executor.logs(job.handle)


def follow(job: Job, *, after: int = 0, on_poll: Callable[[JobStatus], None] | None = None) -> Iterator[Event]:
    """Yield the job's events as they come, until it has ended.

    Raises:
        TunesmithError: The worker's own error, or WorkerError where the platform ended it.
    """
    while True:
        status = job.executor.status(job.handle)
        refresh(job, status)
        for event in read_events(job.run.events, after):
            after = event.seq
            yield event
        if on_poll is not None:
            on_poll(status)
        if status.state in ENDED or status.state == "paused":
            break
        time.sleep(_POLL_SECONDS)
    _require_well(job, _as_told(job, status))


def cancel(job: Job) -> None:
    """Let the job stop for good: its worker is asked, and the platform ends it."""
    _wish(job, "cancel")
    job.executor.cancel(job.handle)


def pause(job: Job) -> None:
    """Let the job save a checkpoint and stop."""
    _require_going(job)
    if isinstance(job.executor, Pauses):
        job.executor.pause(job.handle)
    else:
        _wish(job, "pause")


def resume(job: Job) -> None:
    """Let a paused or failed job go on from its last checkpoint.

    Raises:
        RunError: It is at work, or is over for good.
    """
    view = look(job)
    if view.status.state in ("queued", "running"):
        raise RunError("the job is at work", code="job.running", place=job.run.name)
    if view.status.state in ("succeeded", "cancelled"):
        raise RunError(f"the job has {view.status.state}", code=f"job.{view.status.state}", place=job.run.name)
    # A service goes on with what is paused; what has failed there is submitted anew.
    is_over = isinstance(job.executor, Tells) and view.status.state != "paused"
    if isinstance(job.executor, Pauses) and not is_over:
        job.executor.resume(job.handle)
        return
    from tunesmith.jobs.submitting import send_again

    _wish(job, "continue")
    send_again(job.run)


def _wish(job: Job, wish: Wish) -> None:
    store = job.store
    if store is not None:
        store.write_wish(wish)
    else:
        write_wish(job.run.control, wish)


def _require_going(job: Job) -> None:
    state = look(job).status.state
    if state not in ("queued", "running"):
        raise RunError("the job is not at work", code="job.not_running", place=job.run.name, value=state)


def _run_of(job: Job, status: JobStatus) -> RunStatus:
    """How the run is; that no worker of this machine owns it means nothing where another platform works for it."""
    told = run_status(job.run)
    if told.state != "died" or status.state not in ("queued", "running"):
        return told
    return replace(told, state="running" if status.state == "running" else "new")


def _as_told(job: Job, status: JobStatus) -> JobStatus:
    """What the run itself says decides where the platform knows only that a process ended."""
    told = run_status(job.run)
    if status.state == "lost" and told.state != "finished" and _is_cancelled(job):
        # Platforms that end a job by removing it know nothing of it afterwards.
        return JobStatus("cancelled", status.words, None)
    if status.state in ("failed", "lost", "succeeded") and told.state in ("paused", "cancelled", "finished"):
        state = {"paused": "paused", "cancelled": "cancelled", "finished": "succeeded"}[told.state]
        return JobStatus(state, status.words, None)  # type: ignore[arg-type]
    return status


def _is_cancelled(job: Job) -> bool:
    store = job.store
    return (read_wish(job.run.control) if store is None else store.wish()) == "cancel"


def _require_well(job: Job, status: JobStatus) -> None:
    if status.state in ("succeeded", "paused", "cancelled"):
        return
    for event in reversed(list(read_events(job.run.events))):
        if event.type == "error":
            raise from_json(event.data)
    raise WorkerError(
        "the job ended and its worker did not say why",
        code="job.ended",
        place=job.run.name,
        value=status.reason or status.words,
        hint=f"see `tunesmith jobs logs {job.run.name}`",
    )


def _take_down(job: Job, executor: Tells) -> None:
    """Write what a service with a trainer of its own has told into the run's events, and bring its result here once."""
    place, attempt = job.run.path / "told.json", int(job.record.get("attempt", 1))
    with telling_output_errors(place):
        turn = (job.run.path / JOB).open("r+b")
    with turn:
        # Of two commands that look at once, one is enough: both would write everything twice.
        if not lock(turn):
            return
        known = read_json(place) if place.exists() else {}
        if known.get("attempt", 1) != attempt:
            # Submitted anew, it is another job at the service.
            known = {}
        told, cursor = executor.tell(job.handle, known.get("cursor"))
        if told:
            # Cuts off what a crash has left.
            open_events(job.run.events)
            last = max((event.seq for event in read_events(job.run.events)), default=0)
            # A submission is one attempt, however often it is asked.
            events = EventWriter(job.run.events, attempt, last + 1)
            for one in told:
                events.emit(one.type, one.step, **one.data)
        if cursor != known.get("cursor"):
            write_json(place, {**known, "attempt": attempt, "cursor": cursor})
        # Whoever was killed before the result was here is made up for by the next one that looks.
        if not known.get("fetched") and last_state(job.run.events) == "finished":
            executor.fetch(job.handle, job.run.path)
            write_json(place, {"attempt": attempt, "cursor": cursor, "fetched": True})
