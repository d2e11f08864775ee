"""Follow a run or a stage by its events until its worker ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tunesmith.errors import Stopped, TunesmithError, WorkerError, from_json
from tunesmith.executors.local.worker import LocalWorker, worker_error
from tunesmith.jobs.states import is_alive
from tunesmith.runs.events import Event, EventFollower, read_events
from tunesmith.runs.layout import RunFolder

POLL_SECONDS = 0.1
_ALIVE_SECONDS = 1.0


def last_seq(run: RunFolder) -> int:
    """The number of the last event, 0 where there is none."""
    return max((event.seq for event in read_events(run.events)), default=0)


def follow_worker(worker: LocalWorker, *, after: int = 0, on_poll: Callable[[], None] | None = None) -> Iterator[Event]:
    """Yield a worker's events as they come, until the process ends.

    Args:
        worker: A worker that this process started.
        after: Events up to this number belong to earlier attempts and are passed over.
        on_poll: Called several times a second, for whoever must look at something else meanwhile.

    Raises:
        TunesmithError: The worker's own error, or WorkerError where it said none.
        Stopped: The run was paused or cancelled.
    """
    follower = EventFollower(worker.folder / "events.jsonl")
    seen: list[Event] = []
    while True:
        # The code is read before the events, so that none is missed that was written just before the end.
        code = worker.exit_code()
        for event in _new(follower, after):
            # Only these are looked at again; step events of a long run would fill the memory.
            if event.type in ("error", "status"):
                seen.append(event)
            yield event
        if on_poll is not None:
            on_poll()
        if code is not None:
            break
        time.sleep(POLL_SECONDS)
    if code != 0:
        raise _ended(worker.folder, code, seen)


def follow_run(run: RunFolder, *, after: int = 0, on_poll: Callable[[], None] | None = None) -> Iterator[Event]:
    """As :func:`follow_worker`, for a run whose worker was started by somebody else."""
    follower = EventFollower(run.events)
    alive, looked = True, float("-inf")
    while True:
        if time.monotonic() - looked > _ALIVE_SECONDS:
            alive, looked = is_alive(run), time.monotonic()
        yield from _new(follower, after)
        if on_poll is not None:
            on_poll()
        if not alive:
            break
        time.sleep(POLL_SECONDS)
    # The worker may have said its last word before anybody followed it, so all events count here.
    told = [event for event in read_events(run.events) if event.type in ("error", "status")]
    state = _last_state(told)
    if state != "finished":
        raise _ended_elsewhere(run.path, state, told)


def _new(follower: EventFollower, after: int) -> list[Event]:
    return [event for event in follower.poll() if event.seq > after]


def _ended(folder: Path, code: int, events: list[Event]) -> TunesmithError:
    error = worker_error(folder, code, events)
    if isinstance(error, WorkerError) and code == Stopped.exit_code:
        return _stopped(folder, _last_state(events))
    return error


def _ended_elsewhere(folder: Path, state: str, events: list[Event]) -> TunesmithError:
    if state in ("stopped", "cancelled"):
        return _stopped(folder, state)
    for event in reversed(events):
        if event.type == "error":
            return from_json(event.data)
    return WorkerError(
        "the worker ended and did not say why",
        code="worker.died",
        place=folder.name,
        hint=f"its log is {folder / 'worker.log'}",
    )


def _stopped(folder: Path, state: str) -> Stopped:
    word = "cancelled" if state == "cancelled" else "paused"
    return Stopped(f"the run was {word}", code=f"run.{word}", place=folder.name)


def _last_state(events: list[Event]) -> str:
    return next((str(event.data.get("state")) for event in reversed(events) if event.type == "status"), "")
