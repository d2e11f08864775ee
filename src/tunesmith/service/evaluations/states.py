"""The states of evaluations and who may change them: each change says which state and which lock it believes in."""

from __future__ import annotations

import secrets
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, case, func, or_, select, update

from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.evaluations import EVALUATIONS
from tunesmith.service.shared.telling import tell
from tunesmith.service.shared.working import LOCK_SECONDS, LostError

_OPEN = ("queued", "running")


def take(context: Context) -> Row[Any] | None:
    """Take the evaluation whose turn it is; None where none waits that may be begun.

    One that somebody left behind goes first, then priority, then the project with the fewest that run, then age. No
    project has more at once than it may have jobs.
    """
    now = context.now()
    with context.database.read() as connection:
        # Nearly every look ends here.
        if _next(connection, now) is None:
            return None
    with context.database.write() as connection:
        row = _next(connection, now)
        if row is None:
            return None
        values = {
            "state": "running",
            "started_at": row.started_at or now,
            # Whoever let go of it has counted already.
            "tries": row.tries + (row.state == "running"),
            "lock_token": secrets.token_hex(16),
            "lock_expires_at": now + LOCK_SECONDS,
        }
        seen = (EVALUATIONS.c.id == row.id) & (EVALUATIONS.c.state == row.state) & _is_free(now)
        if connection.execute(update(EVALUATIONS).where(seen).values(**values)).rowcount == 0:
            return None
        return _row(connection, row.id)


def renew(context: Context, row: Row[Any], progress: dict[str, Any] | None) -> None:
    """Keep an evaluation for longer, and write how far it is.

    Raises:
        LostError: Somebody else has it, or it was cancelled.
    """
    values = {"lock_expires_at": context.now() + LOCK_SECONDS}
    with context.database.write() as connection:
        _change(connection, row, **(values if progress is None else {**values, "progress": progress}))


def leave(context: Context, row: Row[Any], again_after_seconds: float = 0.0, *, in_vain: bool = False) -> None:
    """Let go of an evaluation; it waits again.

    Args:
        context: The service.
        row: The evaluation, whose lock is held.
        again_after_seconds: Nobody takes it before.
        in_vain: Whether this counts as a try.

    Raises:
        LostError: Somebody else has it, or it was cancelled.
    """
    until = context.now() + again_after_seconds
    with context.database.write() as connection:
        tries = row.tries + in_vain
        _change(connection, row, state="queued", tries=tries, progress=None, lock_token=None, lock_expires_at=until)


def end(
    context: Context, connection: Connection, row: Row[Any], state: Literal["succeeded", "failed"], **values: Any
) -> None:
    """Bring an evaluation to its end, and let webhooks be told.

    Args:
        context: The service.
        connection: Of a transaction that writes.
        row: The evaluation with the lock that is held.
        state: How it ends.
        values: More columns.

    Raises:
        LostError: Somebody else has it, or it was cancelled.
    """
    _change(connection, row, state=state, **_ended(context), **values)
    tell(context, connection, row.project_id, f"evaluation.{state}", {"id": row.id})


def cancel_now(context: Context, connection: Connection, row: Row[Any]) -> bool:
    """Cancel an evaluation that has not ended; whether it had not. Whoever works for it loses its lock by that."""
    seen = (EVALUATIONS.c.id == row.id) & EVALUATIONS.c.state.in_(_OPEN)
    values = {"state": "cancelled", **_ended(context)}
    if connection.execute(update(EVALUATIONS).where(seen).values(**values)).rowcount == 0:
        return False
    tell(context, connection, row.project_id, "evaluation.cancelled", {"id": row.id})
    return True


def _ended(context: Context) -> dict[str, Any]:
    return {"finished_at": context.now(), "progress": None, "lock_token": None, "lock_expires_at": None}


def _is_free(now: float) -> ColumnElement[bool]:
    return or_(EVALUATIONS.c.lock_expires_at.is_(None), EVALUATIONS.c.lock_expires_at < now)


def _next(connection: Connection, now: float) -> Row[Any] | None:
    running = (
        select(EVALUATIONS.c.project_id, func.count().label("count"))
        .where(EVALUATIONS.c.state == "running")
        .group_by(EVALUATIONS.c.project_id)
        .subquery()
    )
    count = func.coalesce(running.c.count, 0)
    may_begin = or_(
        EVALUATIONS.c.state == "running", PROJECTS.c.jobs_at_once.is_(None), count < PROJECTS.c.jobs_at_once
    )
    query = (
        select(EVALUATIONS)
        .join(PROJECTS, PROJECTS.c.id == EVALUATIONS.c.project_id)
        .outerjoin(running, running.c.project_id == EVALUATIONS.c.project_id)
        .where(EVALUATIONS.c.state.in_(_OPEN), _is_free(now), may_begin)
        .order_by(
            case((EVALUATIONS.c.state == "running", 0), else_=1),
            PROJECTS.c.priority.desc(),
            count,
            EVALUATIONS.c.id,
        )
        .limit(1)
    )
    found: Row[Any] | None = connection.execute(query).first()
    return found


def _change(connection: Connection, row: Row[Any], **values: Any) -> None:
    own = (EVALUATIONS.c.id == row.id) & (EVALUATIONS.c.lock_token == row.lock_token)
    own &= EVALUATIONS.c.state == "running"
    if connection.execute(update(EVALUATIONS).where(own).values(**values)).rowcount == 0:
        raise LostError(row.id)


def _row(connection: Connection, name: str) -> Row[Any]:
    return connection.execute(select(EVALUATIONS).where(EVALUATIONS.c.id == name)).one()
