"""The states of batches and who may change them: each change says which state and which lock it believes in."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Connection, Row, select, update

from tunesmith.service.batches.schema import ENDED
from tunesmith.service.batches.turns import AWAY_SECONDS, find_next, is_free, mark_of
from tunesmith.service.context import Context
from tunesmith.service.db.tables.inference import BATCHES
from tunesmith.service.shared.telling import tell
from tunesmith.service.shared.working import LOCK_SECONDS, LostError


def take(context: Context) -> Row[Any] | None:
    """Take the batch whose turn it is, see :func:`tunesmith.service.batches.turns.find_next`; None where none waits."""
    now = context.now()
    with context.database.read() as connection:
        # Nearly every look ends here.
        if find_next(context, connection, now) is None:
            return None
    with context.database.write() as connection:
        name = find_next(context, connection, now)
        if name is None:
            return None
        lock = {"lock_token": secrets.token_hex(16), "lock_expires_at": now + LOCK_SECONDS}
        seen = (BATCHES.c.id == name) & BATCHES.c.state.not_in(ENDED) & is_free(context, now)
        if connection.execute(update(BATCHES).where(seen).values(**lock)).rowcount == 0:
            return None
        return _row(connection, name)


def renew(context: Context, row: Row[Any], **values: Any) -> str:
    """Keep a batch for longer, and write how far it is; its state, which a request may have changed.

    Raises:
        LostError: Somebody else has it.
    """
    with context.database.write() as connection:
        lock = context.now() + LOCK_SECONDS
        _change(connection, row, lock_expires_at=lock, **values)
        return str(_row(connection, row.id).state)


def leave(context: Context, row: Row[Any], again_after_seconds: float) -> None:
    """Let go of a batch that cannot go on now; it is taken again later.

    Raises:
        LostError: Somebody else has it.
    """
    with context.database.write() as connection:
        _change(connection, row, lock_token=None, lock_expires_at=context.now() + again_after_seconds)


def give_turn(context: Context, row: Row[Any]) -> None:
    """Let go of a batch for others, to go on later where its answers are.

    Raises:
        LostError: Somebody else has it.
    """
    with context.database.write() as connection:
        _change(connection, row, lock_token=mark_of(context), lock_expires_at=context.now() + AWAY_SECONDS)


def move(
    context: Context, connection: Connection, row: Row[Any], state: str, before: tuple[str, ...], **values: Any
) -> Row[Any]:
    """Bring a batch into another state; when that is its last, webhooks are told and the lock ends.

    Args:
        context: The service.
        connection: Of a transaction that writes.
        row: The batch with the lock that is held.
        state: The new state.
        before: States from which this may be.
        values: More columns.

    Raises:
        LostError: It is in another state, or somebody else has it.
    """
    now = context.now()
    moments = {**_row(connection, row.id).moments, f"{state}_at": int(now)}
    lock: dict[str, Any] = {"lock_expires_at": now + LOCK_SECONDS}
    if state in ENDED:
        lock = {"lock_token": None, "lock_expires_at": None}
        tell(context, connection, row.project_id, f"batch.{state}", {"id": row.id})
    _change(connection, row, before, state=state, moments=moments, **values, **lock)
    return _row(connection, row.id)


def _change(connection: Connection, row: Row[Any], before: tuple[str, ...] | None = None, **values: Any) -> None:
    own = (BATCHES.c.id == row.id) & (BATCHES.c.lock_token == row.lock_token)
    if before is not None:
        own &= BATCHES.c.state.in_(before)
    if connection.execute(update(BATCHES).where(own).values(**values)).rowcount == 0:
        raise LostError(row.id)


def _row(connection: Connection, name: str) -> Row[Any]:
    return connection.execute(select(BATCHES).where(BATCHES.c.id == name)).one()
