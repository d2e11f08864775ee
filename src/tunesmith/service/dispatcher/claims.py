"""Whose turn it is, and the locks by which one dispatcher at a time works for a job.

A lock is a secret word with an end. Whoever holds it renews it all the time; a dispatcher that was killed does not, and
another one, or the same one started again, takes its jobs over when the lock has ended.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Row, func, or_, select, text, update

from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.dispatcher.budgets import spent_projects
from tunesmith.service.fine_tuning.states import Reason, State, Step, Wish, is_free, take
from tunesmith.service.shared.telling import tell

LOCK_SECONDS = 20.0
_MOST_AT_ONCE = 50
# Of two dispatchers that choose the next job, one waits for the other.
_TURN = 0x7A5C_0002


def renew(context: Context, locks: Mapping[str, str]) -> set[str]:
    """Hold on to locks for some more time; the jobs whose lock is lost.

    Args:
        context: The service.
        locks: The lock of each job.
    """
    if not locks:
        return set()
    ends = context.now() + LOCK_SECONDS
    with context.database.write() as connection:
        connection.execute(update(JOBS).where(JOBS.c.lock_token.in_(list(locks.values()))).values(lock_expires_at=ends))
        rows = connection.execute(select(JOBS.c.id, JOBS.c.lock_token).where(JOBS.c.id.in_(list(locks)))).all()
    held = {row.id for row in rows if row.lock_token == locks[row.id]}
    return set(locks) - held


def release(context: Context, locks: Collection[str]) -> None:
    """Give locks back, so that the next dispatcher need not wait for their end."""
    if locks:
        with context.database.write() as connection:
            connection.execute(
                update(JOBS).where(JOBS.c.lock_token.in_(list(locks))).values(lock_token=None, lock_expires_at=None)
            )


def claim_due(context: Context, states: Collection[State] = (State.VALIDATING, State.RUNNING)) -> dict[str, str]:
    """Take every job that nobody works for and that wants work: new locks by job.

    Those are jobs whose files are to be looked at, jobs that run, and jobs that wait or are paused and are to be ended.
    """
    now = context.now()
    to_end = JOBS.c.state.in_([State.QUEUED, State.PAUSED]) & (JOBS.c.wish == Wish.CANCEL)
    due = select(JOBS.c.id).where(
        or_(JOBS.c.state.in_(list(states)), to_end),
        is_free(now),
        JOBS.c.look_at.is_(None) | (JOBS.c.look_at <= now),
    )
    with context.database.read() as connection:
        found = connection.execute(due.order_by(JOBS.c.id).limit(_MOST_AT_ONCE)).scalars().all()
    return {job_id: lock for job_id in found if (lock := _claim(context, job_id)) is not None}


def _claim(context: Context, job_id: str) -> str | None:
    now, lock = context.now(), secrets.token_hex(16)
    with context.database.write() as connection:
        changed = connection.execute(
            update(JOBS)
            .where(JOBS.c.id == job_id, is_free(now))
            .values(lock_token=lock, lock_expires_at=now + LOCK_SECONDS)
        )
        return lock if changed.rowcount == 1 else None


def start_next(context: Context, most_at_once: int | None) -> tuple[str, str] | None:
    """Let the next job that waits run: its id and its lock; None where none may.

    Priority goes first, then the project with the fewest jobs that run, then the oldest job. Jobs of projects that
    have spent their budget wait.

    Args:
        context: The service.
        most_at_once: Jobs that may run at once; None: as many as there are.
    """
    now = context.now()
    with context.database.read() as connection:
        # Nearly every turn ends here.
        if _next(context, connection, now, most_at_once) is None:
            return None
    with context.database.write() as connection:
        if context.database.is_postgresql:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_TURN})"))
        row = _next(context, connection, now, most_at_once)
        if row is None:
            return None
        lock = secrets.token_hex(16)
        values: dict[str, Any] = {
            "lock_token": lock,
            "lock_expires_at": now + LOCK_SECONDS,
            "look_at": None,
            "started_at": row.started_at or now,
        }
        step = Step((State.QUEUED,), State.RUNNING, Reason.STARTED, (), values)
        if not take(connection, row.id, step, now):
            return None
        tell(context, connection, row.project_id, "fine_tuning.job.running", {"id": row.id})
        return row.id, lock


def _next(context: Context, connection: Connection, now: float, most_at_once: int | None) -> Row[Any, Any, Any] | None:
    running = (
        select(JOBS.c.project_id, func.count().label("count"))
        .where(JOBS.c.state == State.RUNNING)
        .group_by(JOBS.c.project_id)
        .subquery()
    )
    if most_at_once is not None:
        total = connection.execute(select(func.coalesce(func.sum(running.c.count), 0))).scalar_one()
        if total >= most_at_once:
            return None
    count = func.coalesce(running.c.count, 0)
    query = (
        select(JOBS.c.id, JOBS.c.project_id, JOBS.c.started_at)
        .join(PROJECTS, PROJECTS.c.id == JOBS.c.project_id)
        .outerjoin(running, running.c.project_id == JOBS.c.project_id)
        .where(
            JOBS.c.state == State.QUEUED,
            JOBS.c.wish == Wish.RUN,
            is_free(now),
            JOBS.c.look_at.is_(None) | (JOBS.c.look_at <= now),
            PROJECTS.c.id.not_in(spent_projects(context, connection, State.QUEUED)),
            PROJECTS.c.jobs_at_once.is_(None) | (count < PROJECTS.c.jobs_at_once),
        )
        .order_by((PROJECTS.c.priority + JOBS.c.priority).desc(), count, JOBS.c.id)
        .limit(1)
    )
    return connection.execute(query).first()
