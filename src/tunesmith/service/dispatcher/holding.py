"""A job that this dispatcher works for: its lock, and what is written while that is held."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select, update

from tunesmith.service.context import Context
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.fine_tuning.states import State, Step, held_by, take
from tunesmith.service.shared.telling import tell

_RETRY_SECONDS = 5.0


class LockLostError(Exception):
    """Another dispatcher works for the job."""


@dataclass
class Tended:
    """A job that this dispatcher works for: its lock, and what this dispatcher knows of it.

    Attributes:
        id: The job.
        lock: The lock that is held.
        tried: Steps of checkpoints that could not be kept.
        is_taken_up: Whether its run was made ready to be followed from here: since the lock was taken last, another
            machine may have gone on with it, or a backup was restored.
    """

    id: str
    lock: str
    tried: set[int] = field(default_factory=set)
    is_taken_up: bool = False


def hold(connection: Connection, tended: Tended, **values: Any) -> None:
    """Write columns of a job whose lock is held; takes the row, so that what is written after it is this holder's.

    Raises:
        LockLostError: Another one works for it.
    """
    if not values:
        values = {"lock_token": tended.lock}
    changed = connection.execute(update(JOBS).where(JOBS.c.id == tended.id, held_by(tended.lock)).values(**values))
    if changed.rowcount != 1:
        raise LockLostError(tended.id)


def take_step(context: Context, tended: Tended, step: Step) -> None:
    """Take a step between a job's states, and tell those who want to hear of it.

    Raises:
        LockLostError: Another one works for it.
    """
    with context.database.write() as connection:
        if not take(connection, tended.id, step, context.now(), lock=tended.lock):
            raise LockLostError(tended.id)
        told = f"fine_tuning.job.{step.target}"
        if step.target in (State.FAILED, State.CANCELLED, State.PAUSED):
            query = select(JOBS.c.project_id).where(JOBS.c.id == tended.id)
            tell(context, connection, connection.execute(query).scalar_one(), told, {"id": tended.id})


def try_later(context: Context, tended: Tended, job: Row[Any]) -> None:
    """Let go of a job for a while, since something did not work; its state stays."""
    wait = _RETRY_SECONDS * min(12, job.tries + 1)
    with context.database.write() as connection:
        hold(
            connection,
            tended,
            tries=job.tries + 1,
            look_at=context.now() + wait,
            lock_token=None,
            lock_expires_at=None,
        )
