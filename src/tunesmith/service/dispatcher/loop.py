"""The dispatcher's process: jobs get their turn, are followed to their end, and chores are done beside them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from tunesmith.executors.local.queue import set_at_once
from tunesmith.service.context import Context
from tunesmith.service.dispatcher.chores import CHORES
from tunesmith.service.dispatcher.claims import claim_due, release, renew, start_next
from tunesmith.service.dispatcher.holding import LockLostError, Tended
from tunesmith.service.dispatcher.tending import tend
from tunesmith.service.shared.chores import Chore
from tunesmith.service.shared.traces import span

_log = logging.getLogger(__name__)
TURN_SECONDS = 0.5
# A job is looked at so often, and locks are renewed.
LOOK_SECONDS = 1.0
_RENEW_SECONDS = 4.0
_WORKERS = 8
_CHORES_AT_ONCE = 4
_AFTER_ERROR_SECONDS = 5.0


def run(context: Context, stop: threading.Event) -> None:
    """Work until it is told to stop; jobs go on, and whoever starts next follows them.

    Args:
        context: The service.
        stop: Set from outside.
    """
    # Workers and stages of this process, those of evaluations too, find versions of the registry by addresses alone.
    os.environ["TUNESMITH_REGISTRY"] = context.settings.registry
    if not context.settings.shares_runs:
        set_at_once(context.settings.runs_folder, context.settings.jobs_at_once or 1)
    with ThreadPoolExecutor(_WORKERS, "job") as pool, ThreadPoolExecutor(_CHORES_AT_ONCE, "chore") as chores:
        dispatcher = Dispatcher(context, pool)
        due = _Due(CHORES, chores, context)
        while not stop.is_set():
            try:
                dispatcher.turn()
                due.turn()
                wait = TURN_SECONDS
            except Exception:
                # The database may be started again at this moment; jobs go on meanwhile.
                _log.exception("a turn of the dispatcher failed")
                wait = _AFTER_ERROR_SECONDS
            stop.wait(wait)
    dispatcher.close()


class Dispatcher:
    """The jobs that this process works for."""

    def __init__(self, context: Context, pool: ThreadPoolExecutor) -> None:
        self._context = context
        self._pool = pool
        self._tended: dict[str, Tended] = {}
        self._working: dict[str, Future[bool]] = {}
        self._look_at: dict[str, float] = {}
        self._renewed = time.monotonic()

    def turn(self) -> None:
        """Do what is due now."""
        self._collect()
        self._renew()
        for job_id, lock in claim_due(self._context).items():
            self._take(job_id, lock)
        while (started := start_next(self._context, self._context.settings.jobs_at_once)) is not None:
            self._take(*started)
        now = time.monotonic()
        for job_id, tended in self._tended.items():
            if job_id not in self._working and now >= self._look_at[job_id]:
                self._working[job_id] = self._pool.submit(_traced, self._context, tended)

    def close(self) -> None:
        """Give back all jobs; nobody looks at one any more."""
        release(self._context, [one.lock for one in self._tended.values()])

    def _take(self, job_id: str, lock: str) -> None:
        self._tended[job_id] = Tended(job_id, lock)
        self._look_at[job_id] = 0.0

    def _collect(self) -> None:
        for job_id, future in list(self._working.items()):
            if not future.done():
                continue
            del self._working[job_id]
            self._look_at[job_id] = time.monotonic() + LOOK_SECONDS
            try:
                goes_on = future.result()
            except LockLostError:
                goes_on = False
            except Exception:
                _log.exception("job %s could not be looked at", job_id)
                self._look_at[job_id] = time.monotonic() + _AFTER_ERROR_SECONDS
                continue
            if not goes_on:
                del self._tended[job_id], self._look_at[job_id]

    def _renew(self) -> None:
        if time.monotonic() - self._renewed < _RENEW_SECONDS:
            return
        self._renewed = time.monotonic()
        for job_id in renew(self._context, {one.id: one.lock for one in self._tended.values()}):
            # Whoever works for it finds out by itself when it writes.
            if job_id not in self._working:
                del self._tended[job_id], self._look_at[job_id]


def _traced(context: Context, tended: Tended) -> bool:
    with span("job.tend", {"job": tended.id}):
        return tend(context, tended)


def _do(chore: Chore, context: Context) -> None:
    with span("chore.do", {"chore": chore.name}):
        chore.do(context)


class _Due:
    """Chores, each when its time has come and while it is not under way."""

    def __init__(self, chores: Sequence[Chore], pool: ThreadPoolExecutor, context: Context) -> None:
        self._chores = chores
        self._pool = pool
        self._context = context
        self._next_at = {chore.name: 0.0 for chore in chores}
        self._working: dict[str, Future[None]] = {}

    def turn(self) -> None:
        now = time.monotonic()
        for chore in self._chores:
            future = self._working.get(chore.name)
            if future is not None and future.done():
                del self._working[chore.name]
                error = future.exception()
                if error is not None:
                    _log.error("the chore %s failed", chore.name, exc_info=error)
            if chore.name not in self._working and now >= self._next_at[chore.name]:
                self._next_at[chore.name] = now + chore.every_seconds
                self._working[chore.name] = self._pool.submit(_do, chore, self._context)
