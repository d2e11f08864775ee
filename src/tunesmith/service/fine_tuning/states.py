"""A job's states, every allowed step between them, and the one function that takes such a step.

A step is one UPDATE that names the states it starts from and, where a dispatcher works for the job, the lock that the
dispatcher holds. Whoever lost the lock, or came second, changes nothing and is told so. Each step writes an event.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, update

from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.fine_tuning.telling import Line, say


class State(StrEnum):
    """Where a job is; the names are OpenAI's, with ``paused`` as its pause example has it."""

    VALIDATING = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Why a job is where it is."""

    CREATED = "created"
    FILES_VALID = "files_valid"
    FILES_INVALID = "files_invalid"
    STARTED = "started"
    RESUMED = "resumed"
    PAUSED_BY_USER = "paused_by_user"
    PAUSED_BY_BUDGET = "paused_by_budget"
    CANCELLED_BY_USER = "cancelled_by_user"
    CANCELLED_BY_BUDGET = "cancelled_by_budget"
    FINISHED = "finished"
    NOT_SUBMITTED = "not_submitted"
    WORKER_FAILED = "worker_failed"
    RUN_LOST = "run_lost"
    NOT_REGISTERED = "not_registered"


class Wish(StrEnum):
    """What becomes of a job next, as people or a budget want it."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
STEPS: Mapping[State, frozenset[State]] = {
    State.VALIDATING: frozenset({State.QUEUED, State.FAILED, State.CANCELLED}),
    State.QUEUED: frozenset({State.RUNNING, State.PAUSED, State.FAILED, State.CANCELLED}),
    State.RUNNING: frozenset({State.QUEUED, State.PAUSED, State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


@dataclass(frozen=True)
class Step:
    """One step: from where, to where, why, the events that tell of it, and other columns that change with it."""

    origins: Collection[State]
    target: State
    reason: Reason
    lines: tuple[Line, ...] = ()
    values: Mapping[str, Any] | None = None


def take(connection: Connection, job_id: str, step: Step, now: float, *, lock: str | None = None) -> bool:
    """Take a step; False where the job is not where the step starts, or another one works for it.

    Args:
        connection: Of a transaction that writes; the events are written with the step, or neither is.
        job_id: Of which job.
        step: Which.
        now: The time.
        lock: The lock that the caller holds; None: nobody may hold one.

    Raises:
        ValueError: The table of steps has no such step.
    """
    for origin in step.origins:
        if step.target not in STEPS[origin]:
            raise ValueError(f"no step leads from {origin} to {step.target}")
    values: dict[str, Any] = {"state": step.target, "reason": step.reason, **(step.values or {})}
    if step.target in TERMINAL:
        values |= {"finished_at": now, "estimated_finish": None}
    if step.target != State.RUNNING:
        values |= {"lock_token": None, "lock_expires_at": None}
    holds = held_by(lock) if lock is not None else is_free(now)
    changed = connection.execute(
        update(JOBS).where(JOBS.c.id == job_id, JOBS.c.state.in_(list(step.origins)), holds).values(**values)
    )
    if changed.rowcount != 1:
        return False
    for line in step.lines:
        say(connection, job_id, line, now)
    return True


def is_free(now: float) -> Any:
    """That no dispatcher works for a job."""
    return JOBS.c.lock_token.is_(None) | (JOBS.c.lock_expires_at < now)


def held_by(lock: str) -> Any:
    """That the holder of this lock works for a job."""
    return JOBS.c.lock_token == lock
