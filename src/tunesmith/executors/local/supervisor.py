"""``python -m tunesmith.executors.local.supervisor RUNS``: start the runs of a queue in turn, and limit them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from tunesmith.errors import TunesmithError
from tunesmith.executors.local.queue import (
    ENDED_STATES,
    FOLDER,
    LOCK,
    MOST_TRIES,
    QueuedJob,
    at_once,
    is_working,
    read_queue,
)
from tunesmith.executors.local.worker import LocalWorker, launched_process, start_worker
from tunesmith.runs.atomic import write_json
from tunesmith.runs.control import read_wish
from tunesmith.runs.events import last_state
from tunesmith.runs.lease import lock

_TURN_SECONDS = 0.5
_IDLE_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until nothing is left to do; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tunesmith.executors.local.supervisor", description=__doc__)
    parser.add_argument("runs", type=Path, help="folder of runs")
    runs = parser.parse_args(arguments).runs.absolute()
    supervisor = Supervisor(runs)
    while True:
        with (runs / FOLDER / LOCK).open("ab") as file:
            if not lock(file):
                return 0
            supervisor.work()
        # Whoever submitted in the moment before the lock was free trusts that somebody looks.
        if not any(not job.ended for job in read_queue(runs)):
            return 0


class Supervisor:
    """Looks at the queue again and again, and does what is due."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._workers: list[LocalWorker] = []

    def work(self) -> None:
        """Until the queue has been empty for some seconds."""
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < _IDLE_SECONDS:
            if self.turn():
                idle_since = time.monotonic()
            time.sleep(_TURN_SECONDS)

    def turn(self) -> bool:
        """Do what is due now; whether anything is left to do."""
        self._workers = [worker for worker in self._workers if worker.exit_code() is None]
        waiting: list[QueuedJob] = []
        working = 0
        for job in read_queue(self._runs):
            if job.ended:
                continue
            if is_working(job.run):
                working += 1
                self._keep_to_limits(job)
            elif (reason := _over(job)) is not None:
                _end(job, reason)
            else:
                waiting.append(job)
        for job in waiting[: max(0, at_once(self._runs) - working)]:
            self._start(job)
        return working > 0 or bool(waiting)

    def _start(self, job: QueuedJob) -> None:
        threads = {} if job.threads is None else {"OMP_NUM_THREADS": str(job.threads)}
        write_json(job.entry, replace(job, tries=job.tries + 1).to_json())
        try:
            self._workers.append(start_worker(job.run.path, environment=threads))
        except TunesmithError as error:
            _end(job, str(error))

    def _keep_to_limits(self, job: QueuedJob) -> None:
        if job.memory_gib is None:
            return
        process = launched_process(job.run.path)
        if process is None:
            return
        tree = [process, *_children(process)]
        used = sum(map(_memory_bytes, tree)) / 2**30
        if used > job.memory_gib:
            for one in tree:
                try:
                    one.kill()
                except psutil.Error:
                    continue
            _end(job, f"its processes took {used:.1f} GiB, more than the {job.memory_gib:g} GiB that it may have")


def _over(job: QueuedJob) -> str | None:
    """Why a job that no worker owns is not started again, in words; None where it is."""
    if not (job.run.path / "recipe.yaml").is_file():
        return "the run was removed"
    wish, state = read_wish(job.run.control), last_state(job.run.events)
    if wish != "continue":
        return wish
    # A state of an earlier turn of a job that was resumed is no reason.
    if job.tries and state in ENDED_STATES:
        return state
    if state == "finished":
        return state
    return f"its worker ended without a word {job.tries} times" if job.tries >= MOST_TRIES else None


def _end(job: QueuedJob, reason: str) -> None:
    write_json(job.entry, replace(job, reason=reason, ended=True).to_json())


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _memory_bytes(process: psutil.Process) -> int:
    """Memory of its own; what it shares with the others of its job is counted once there."""
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    sys.exit(main())
