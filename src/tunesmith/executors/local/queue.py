"""Runs of this machine in a queue: they wait for their turn, keep to limits, and outlive whoever submitted them.

    .queue/settings.json              how many may run at once
    .queue/000012-NAME.json           a job in the order of submission: its run, its limits, how often it was tried

A process of its own (:mod:`tunesmith.executors.local.supervisor`) starts them. It is started by the first submission
and ends when nothing is left to do; one that died is replaced by the next command that looks, and finds the jobs'
workers as they are, since those are processes of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError
from tunesmith.executors.local.worker import is_launched
from tunesmith.executors.protocol import Handle, JobStatus, Submission
from tunesmith.recipe.executors.local import Local
from tunesmith.runs.atomic import read_json, telling_output_errors, write_json
from tunesmith.runs.control import read_wish, write_wish
from tunesmith.runs.events import last_state
from tunesmith.runs.layout import RunFolder
from tunesmith.runs.lease import is_held, lock

FOLDER = ".queue"
SETTINGS, LOCK, LOG = "settings.json", "supervisor.lock", "supervisor.log"
MOST_TRIES = 3
# What a worker says last, if it says anything.
ENDED_STATES = frozenset({"finished", "failed", "cancelled", "stopped"})
_TURN_SECONDS = 0.02
_STARTING_SECONDS = 20.0


@dataclass(frozen=True)
class _Supervisor:
    folder: Path
    process: subprocess.Popen[bytes]
    at: float


# Started by this process and not yet known to have ended; somebody has to ask, or they stay in the table of processes.
_started: list[_Supervisor] = []


@dataclass(frozen=True)
class QueuedJob:
    """One entry of the queue."""

    entry: Path
    run: RunFolder
    key: str
    memory_gib: float | None
    threads: int | None
    tries: int
    reason: str | None
    ended: bool

    def to_json(self) -> dict[str, Any]:
        """The entry's content."""
        return {
            "format": 1,
            "run": self.run.name,
            "key": self.key,
            "memory_gib": self.memory_gib,
            "threads": self.threads,
            "tries": self.tries,
            "reason": self.reason,
            "ended": self.ended,
        }


class LocalQueue:
    """The queue of one folder of runs."""

    def __init__(self, runs_folder: Path, spec: Local) -> None:
        self._runs = runs_folder
        self._spec = spec

    def submit(self, submission: Submission) -> Handle:
        """See :class:`tunesmith.executors.protocol.Executor`; the run's folder lies in the folder of runs."""
        folder = self._runs.absolute() / FOLDER
        with telling_output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with (folder / "submitting.lock").open("ab") as turn:
            while not lock(turn):
                time.sleep(_TURN_SECONDS)
            known = [job for job in read_queue(self._runs) if job.key == submission.key]
            if not known:
                number = 1 + max((int(path.name[:6]) for path in _entries(folder)), default=0)
                threads = None if self._spec.threads == "auto" else self._spec.threads
                job = QueuedJob(
                    folder / f"{number:06d}-{submission.name}.json",
                    RunFolder(self._runs.absolute() / submission.name),
                    submission.key,
                    self._spec.memory_gib,
                    threads,
                    0,
                    None,
                    ended=False,
                )
                write_json(job.entry, job.to_json())
                known = [job]
        ensure_supervisor(self._runs)
        return {"entry": known[0].entry.name}

    def status(self, handle: Handle) -> JobStatus:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        job = _job(self._runs, handle)
        if job is None:
            return JobStatus("lost", reason="the queue has no such entry")
        if is_working(job.run):
            return JobStatus("running", last_state(job.run.events))
        if not job.ended:
            ensure_supervisor(self._runs)
            return JobStatus("queued", "waiting" if job.tries == 0 else "waiting to go on")
        return ended_status(job)

    def logs(self, handle: Handle) -> Iterator[str]:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        job = _job(self._runs, handle)
        if job is not None and job.run.log.exists():
            with job.run.log.open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    yield line.rstrip("\n")

    def cancel(self, handle: Handle) -> None:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        job = _job(self._runs, handle)
        if job is not None and not job.ended:
            # Whoever runs it, or is about to, finds this wish.
            write_wish(job.run.control, "cancel")
            ensure_supervisor(self._runs)

    def pause(self, handle: Handle) -> None:
        """Let the worker save a checkpoint and stop; a job that waits goes on waiting until it is resumed."""
        job = _job(self._runs, handle)
        if job is not None and not job.ended:
            write_wish(job.run.control, "pause")
            ensure_supervisor(self._runs)

    def resume(self, handle: Handle) -> None:
        """Put a paused or failed job into the queue again, at its old place."""
        job = _job(self._runs, handle)
        if job is None:
            raise RunError("the queue has no such job", code="job.lost", value=str(dict(handle)))
        write_wish(job.run.control, "continue")
        write_json(job.entry, {**job.to_json(), "tries": 0, "reason": None, "ended": False})
        ensure_supervisor(self._runs)


def read_queue(runs_folder: Path) -> list[QueuedJob]:
    """All entries, oldest first."""
    folder = runs_folder.absolute() / FOLDER
    return [_read(path, runs_folder) for path in _entries(folder)]


def at_once(runs_folder: Path) -> int:
    """How many jobs may run at once."""
    path = runs_folder / FOLDER / SETTINGS
    return int(read_json(path).get("at_once", 1)) if path.exists() else 1


def set_at_once(runs_folder: Path, number: int) -> None:
    """Say how many jobs may run at once, from the next turn on."""
    folder = runs_folder / FOLDER
    with telling_output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, {"at_once": number})


def is_working(run: RunFolder) -> bool:
    """Whether a worker of this machine owns the run, or is about to."""
    return is_held(run.lease) or is_launched(run.path)


def ended_status(job: QueuedJob) -> JobStatus:
    """The state of a job whose turn is over."""
    state = last_state(job.run.events)
    if state == "finished":
        return JobStatus("succeeded", state)
    if state == "cancelled" or (read_wish(job.run.control) == "cancel"):
        return JobStatus("cancelled", "cancelled")
    if state == "stopped" or read_wish(job.run.control) == "pause":
        return JobStatus("paused", "paused")
    # What the run itself has told needs no second word.
    return JobStatus("failed", state, None if job.reason in ENDED_STATES else job.reason)


def ensure_supervisor(runs_folder: Path) -> None:
    """Start the process that runs the queue, unless one lives."""
    folder = runs_folder.absolute() / FOLDER
    with telling_output_errors(folder), (folder / LOCK).open("ab") as file:
        if not lock(file):
            return
    _started[:] = [one for one in _started if one.process.poll() is None]
    if any(one.folder == folder and time.monotonic() - one.at < _STARTING_SECONDS for one in _started):
        # It is on its way to the lock.
        return
    with telling_output_errors(folder), (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tunesmith.executors.local.supervisor", str(runs_folder.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=os.fspath(runs_folder.absolute()),
            start_new_session=True,
        )
    _started.append(_Supervisor(folder, process, time.monotonic()))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9][0-9][0-9][0-9][0-9][0-9]-*.json"))


def _job(runs_folder: Path, handle: Handle) -> QueuedJob | None:
    path = runs_folder.absolute() / FOLDER / str(handle.get("entry"))
    return _read(path, runs_folder) if path.is_file() else None


def _read(path: Path, runs_folder: Path) -> QueuedJob:
    content = read_json(path)
    return QueuedJob(
        path,
        RunFolder(runs_folder.absolute() / content["run"]),
        content["key"],
        content["memory_gib"],
        content["threads"],
        content["tries"],
        content["reason"],
        content["ended"],
    )
