"""How long a run has taken, over all its attempts."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import psutil

from tunesmith.runs.events import read_events


def process_age_seconds() -> float:
    """How long this process has lived; loading libraries is part of a run's time."""
    return max(0.0, time.time() - psutil.Process().create_time())


class RunClock:
    """Counts the seconds of this attempt since its process started, and adds those of earlier ones by their events.

    Args:
        events: The run's events file.
        attempt: The number of this attempt.
        now: A clock in seconds.
    """

    def __init__(self, events: Path, attempt: int, now: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._attempt = attempt
        self._now = now
        self._started = now() - process_age_seconds()

    def elapsed_seconds(self) -> float:
        """Seconds that the run was worked on so far."""
        spans: dict[int, tuple[datetime, datetime]] = {}
        for event in read_events(self._events):
            if event.attempt < self._attempt:
                moment = datetime.fromisoformat(event.time)
                spans[event.attempt] = (spans.get(event.attempt, (moment, moment))[0], moment)
        earlier = sum((last - first).total_seconds() for first, last in spans.values())
        return earlier + self._now() - self._started

    def remembered_deadline(self) -> float | None:
        """How long training may take, as the first attempt found; a resumed run keeps to it. None before that."""
        noted = (event.data.get("deadline_seconds") for event in read_events(self._events) if event.type == "status")
        return next((float(seconds) for seconds in noted if seconds is not None), None)

    def stage_seconds(self) -> dict[str, float]:
        """Seconds by the state that the run was in, over all attempts."""
        seconds: dict[str, float] = {}
        state, since, attempt = "", None, 0
        for event in read_events(self._events):
            moment = datetime.fromisoformat(event.time)
            if event.attempt != attempt:
                state, since, attempt = "", None, event.attempt
            if state and since is not None:
                seconds[state] = seconds.get(state, 0.0) + (moment - since).total_seconds()
            if event.type == "status":
                state = str(event.data.get("state", state))
            since = moment
        return {name: value for name, value in seconds.items() if value > 0}
