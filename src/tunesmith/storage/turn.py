"""Whose turn it is to work for a run: one worker owns it, the next one waits until that one has ended or died."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import psutil

from tunesmith.errors import WorkerError
from tunesmith.storage.run_store import Attempt, RunStore, worker_name

_POLL_SECONDS = 0.5


def await_turn(
    run: RunStore, should_stop: Callable[[], bool] = lambda: False, patience_seconds: float = math.inf
) -> int:
    """Wait until no worker of the run lives, or that has lasted too long; the number of the last attempt, 0 before any.

    One of this machine whose process is gone is said to be dead at once; of others that is known only by their silence.
    """
    end = time.monotonic() + patience_seconds
    while True:
        last = run.last_attempt()
        if last is None or not last.is_alive() or should_stop() or time.monotonic() >= end:
            return 0 if last is None else last.number
        if _died_here(last):
            run.end(last.number, WorkerError.exit_code)
        else:
            time.sleep(_POLL_SECONDS)


def _died_here(attempt: Attempt) -> bool:
    pid = attempt.worker.removeprefix("process ").partition(" ")[0]
    if not pid.isdigit() or attempt.worker != worker_name(int(pid)):
        return False
    try:
        return psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
