"""A run in a store: what lies where, so that a machine without a shared disk can work for it.

job.json                     what was asked for, written once by whoever submitted
recipe.yaml, inputs/...      the recipe and the files that it names
control.json                 what the run should do next
submissions/0001.json        what was given to a platform, an attempt each: its key, and how the platform knows it
attempts/0001.json           the worker of an attempt, created by it: whoever comes second finds it there
attempts/0001.beat.json      when that worker was last alive
attempts/0001.end.json       how it ended
events/000000000001.jsonl    pieces of events.jsonl, each named by the number of its first event
files/...                    everything else in the run's folder; a checkpoint's manifest comes last
files.json                   which of them there are, with size and time of the last change
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import orjson

from tunesmith.errors import RunError
from tunesmith.runs.control import Wish
from tunesmith.storage.store import Store

JOB = "job.json"
RECIPE = "recipe.yaml"
INPUTS = "inputs"
CONTROL = "control.json"
FILES = "files"
FILE_LIST = "files.json"
# What a worker leaves among its files while it waits for other machines.
MEETING = "meeting.json"
_ATTEMPTS, _EVENTS, _SUBMISSIONS = "attempts", "events", "submissions"
# A worker that has been silent for so long is taken for dead, by whoever wants to go on in its place.
SILENT_SECONDS = 90.0
BEAT_SECONDS = 15.0


@dataclass(frozen=True)
class Attempt:
    """One worker's try: its number, who it is, when it was last alive, and its exit code once it has ended."""

    number: int
    worker: str
    beat: float
    code: int | None

    def is_alive(self, now: float | None = None) -> bool:
        """Whether it has neither ended nor fallen silent."""
        return self.code is None and (time.time() if now is None else now) - self.beat < SILENT_SECONDS


@dataclass(frozen=True)
class RunStore:
    """The run at a store's root. Making this value asks for nothing."""

    store: Store

    def read_json(self, path: str) -> dict[str, Any] | None:
        """A small file; None where there is none, or where what is there is no object."""
        try:
            found = orjson.loads(self.store.read(path))
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None
        return found if isinstance(found, dict) else None

    def write_json(self, path: str, content: dict[str, Any]) -> None:
        """Write a small file over whatever is there."""
        self.store.write(path, orjson.dumps(content))

    def wish(self) -> Wish:
        """What the run should do next."""
        wish = (self.read_json(CONTROL) or {}).get("wish")
        return wish if wish in ("pause", "cancel") else "continue"

    def write_wish(self, wish: Wish) -> None:
        """Ask the run to continue, to pause or to cancel."""
        self.write_json(CONTROL, {"wish": wish})

    def write_submission(self, number: int, record: dict[str, Any]) -> None:
        """Say what was given to a platform, so that a machine without the submitter's folder can follow it."""
        self.write_json(f"{_SUBMISSIONS}/{number:04d}.json", record)

    def last_submission(self) -> dict[str, Any] | None:
        """What was given to a platform last; None before the first time."""
        found = self._last_number(_SUBMISSIONS)
        return None if found is None else self.read_json(f"{_SUBMISSIONS}/{found:04d}.json")

    def last_attempt(self) -> Attempt | None:
        """The newest attempt; None before the first."""
        found = self._last_number(_ATTEMPTS)
        return None if found is None else self._attempt(found)

    def take_attempt(self, worker: str) -> int:
        """Begin an attempt; its number.

        Raises:
            RunError: ``run.leased``: another worker lives, or has just begun.
        """
        last = self.last_attempt()
        number = 1 if last is None else last.number + 1
        content = orjson.dumps({"worker": worker, "time": time.time()})
        if (last is not None and last.is_alive()) or not self.store.create(_attempt_path(number), content):
            raise RunError(
                "another worker owns this run",
                code="run.leased",
                place=self.store.url,
                value=None if last is None else last.worker,
                hint="wait until it ends, or stop it first",
            )
        return number

    def beat(self, number: int) -> None:
        """Say that an attempt's worker lives."""
        self.write_json(f"{_ATTEMPTS}/{number:04d}.beat.json", {"time": time.time()})

    def end(self, number: int, code: int) -> None:
        """Say that an attempt is over."""
        self.write_json(f"{_ATTEMPTS}/{number:04d}.end.json", {"code": code, "time": time.time()})

    def is_mine(self, number: int) -> bool:
        """Whether no later attempt was begun, by somebody who took this one for dead."""
        return not self.store.exists(_attempt_path(number + 1))

    def event_pieces(self, after: int = 0) -> list[str]:
        """Paths of the pieces that hold events with numbers above ``after``, in order."""
        names = [name for name in self.store.names(_EVENTS) if name.endswith(".jsonl")]
        later = [name for name in names if int(name.removesuffix(".jsonl")) > after]
        return [f"{_EVENTS}/{name}" for name in later]

    def add_events(self, first: int, lines: bytes) -> bool:
        """Add a piece whose first event has this number; False where another worker wrote one."""
        return self.store.create(f"{_EVENTS}/{first:012d}.jsonl", lines)

    def files(self) -> dict[str, tuple[int, int]]:
        """The files below ``files/``: size in bytes and time of the last change in nanoseconds, by path."""
        listed = (self.read_json(FILE_LIST) or {}).get("files", {})
        return {path: (int(one["size_bytes"]), int(one["changed_ns"])) for path, one in listed.items()}

    def write_files(self, files: dict[str, tuple[int, int]]) -> None:
        """Say which files there are, after they are."""
        listed = {path: {"size_bytes": size, "changed_ns": changed} for path, (size, changed) in files.items()}
        self.write_json(FILE_LIST, {"format": 1, "files": listed})

    def _last_number(self, folder: str) -> int | None:
        numbers = [name.removesuffix(".json") for name in self.store.names(folder)]
        return max((int(name) for name in numbers if name.isdigit()), default=None)

    def _attempt(self, number: int) -> Attempt:
        begun = self.read_json(_attempt_path(number)) or {}
        beat = self.read_json(f"{_ATTEMPTS}/{number:04d}.beat.json") or begun
        end = self.read_json(f"{_ATTEMPTS}/{number:04d}.end.json")
        code = None if end is None else int(end.get("code", 1))
        return Attempt(number, str(begun.get("worker", "")), float(beat.get("time", 0)), code)


def worker_name(pid: int) -> str:
    """How a worker of this machine is called in its attempt."""
    return f"process {pid} on {socket.gethostname()}"


def safe_path(path: str) -> PurePosixPath:
    """A path below a run that cannot lead out of it.

    Raises:
        RunError: ``run.path``: it is absolute, or goes up.
    """
    found = PurePosixPath(path)
    if found.is_absolute() or ".." in found.parts or not found.parts or "\\" in path or ":" in found.parts[0]:
        raise RunError("a path that leads out of the run", code="run.path", value=path)
    return found


def _attempt_path(number: int) -> str:
    return f"{_ATTEMPTS}/{number:04d}.json"
