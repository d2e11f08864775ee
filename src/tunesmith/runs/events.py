"""events.jsonl: the only channel by which a run tells how it goes.

One JSON object a line: ``seq`` (1, 2, ... over all attempts), ``attempt``, ``time`` (UTC), ``type``, ``step``,
``data``. A reader ignores a torn last line; a writer that finds one cuts it off before it goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from tunesmith.runs.atomic import telling_output_errors

EventType = Literal["status", "step", "evaluation", "checkpoint", "artifact", "warning", "error", "progress"]


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl."""

    seq: int
    attempt: int
    time: str
    type: str
    step: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


class EventWriter:
    """Appends events to a file; each event is one write, so a reader sees whole lines or a torn last one."""

    def __init__(self, path: Path, attempt: int, next_seq: int) -> None:
        self._path = path
        self._attempt = attempt
        self._next_seq = next_seq

    @property
    def attempt(self) -> int:
        """Which attempt at the run this is, from 1."""
        return self._attempt

    def emit(self, type: EventType, step: int | None = None, **data: Any) -> Event:  # noqa: A002
        """Append one event and return it.

        Raises:
            OutputError: The disk is full or the folder cannot be written.
        """
        if type not in get_args(EventType):
            raise ValueError(f"unknown event type {type!r}")
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = Event(self._next_seq, self._attempt, time, type, step, data)
        with telling_output_errors(self._path), self._path.open("ab") as file:
            file.write(orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
        self._next_seq += 1
        return event


def open_events(path: Path) -> EventWriter:
    """A writer that continues a file: next attempt, next number, a torn last line cut off."""
    last_seq = last_attempt = 0
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) != len(content):
            with telling_output_errors(path), path.open("r+b") as file:
                file.truncate(len(whole))
        for event in read_events(path):
            last_seq, last_attempt = event.seq, event.attempt
    return EventWriter(path, last_attempt + 1, last_seq + 1)


def read_events(path: Path, after: int = 0) -> Iterator[Event]:
    """The events with a number greater than ``after``; a missing file has none."""
    if path.exists():
        follower = EventFollower(path)
        yield from (event for event in follower.poll() if event.seq > after)


class EventFollower:
    """Reads a growing events file piece by piece."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def poll(self) -> list[Event]:
        """The whole lines that were written since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := _parse(line)) is not None]


def _parse(line: bytes) -> Event | None:
    """One event; None for a line that a crash of the machine left broken. Keys of later versions are ignored."""
    try:
        raw = orjson.loads(line)
        return Event(raw["seq"], raw["attempt"], raw["time"], raw["type"], raw.get("step"), raw.get("data") or {})
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def last_state(path: Path) -> str:
    """The state that the last status event names; ``created`` when there is none."""
    state = "created"
    for event in read_events(path):
        if event.type == "status":
            state = str(event.data.get("state", state))
    return state
