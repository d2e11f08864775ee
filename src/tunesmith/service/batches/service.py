"""Batches as requests see them: created, listed, looked at, cancelled."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from tunesmith.service.auth.caller import Caller
from tunesmith.service.batches.schema import ENDED, WINDOW_SECONDS, CreateBatch, shown
from tunesmith.service.context import Context
from tunesmith.service.db.tables.inference import BATCHES
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.ids import new_id
from tunesmith.service.shared.files import find_file
from tunesmith.service.shared.metering import require_budget
from tunesmith.service.shared.once import Keep
from tunesmith.service.shared.telling import note_action


def create(context: Context, caller: Caller, asked: CreateBatch, keep: Keep) -> dict[str, Any]:
    """Take a batch, and keep the answer that tells of it; its lines are looked at later.

    Raises:
        ApiError: 400 or 404: the file cannot be used; 429: the budget is spent.
    """
    now = context.now()
    with context.database.write() as connection:
        require_budget(context, connection, caller.project_id)
        file = find_file(connection, caller.project_id, asked.input_file_id, purpose="batch", param="input_file_id")
        if file.bytes > context.settings.limits.batch_bytes:
            raise ApiError(
                400,
                f"The file has {file.bytes} bytes; a batch has at most {context.settings.limits.batch_bytes}",
                code="file_too_large",
                param="input_file_id",
            )
        name = new_id("batch_")
        kept = None if asked.output_expires_after is None else asked.output_expires_after.seconds
        row = {
            "id": name,
            "project_id": caller.project_id,
            "key_id": caller.key_id,
            "endpoint": asked.endpoint,
            "completion_window": asked.completion_window,
            "input_file_id": file.id,
            "output_expires_seconds": kept,
            "state": "validating",
            "metadata": asked.metadata,
            "moments": {},
            "total": 0,
            "completed": 0,
            "failed": 0,
            "created_at": now,
            "expires_at": now + WINDOW_SECONDS[asked.completion_window],
        }
        connection.execute(insert(BATCHES).values(**row))
        note_action(context, connection, caller, "batch.create", target=name)
        answer = shown(find(connection, caller, name))
        keep(connection, answer)
    return answer


def find(connection: Connection, caller: Caller, name: str) -> Row[Any]:
    """A batch of the project.

    Raises:
        ApiError: 404.
    """
    query = select(BATCHES).where(BATCHES.c.id == name, BATCHES.c.project_id == caller.project_id)
    row: Row[Any] | None = connection.execute(query).first()
    if row is None:
        raise not_found("Batch", name, "batch_id")
    return row


def cancel(context: Context, caller: Caller, name: str) -> Row[Any]:
    """Let a batch end; what was answered by then is kept.

    Raises:
        ApiError: 404; 409: it has ended already.
    """
    with context.database.write() as connection:
        row = find(connection, caller, name)
        if row.state in ENDED or row.state == "finalizing":
            raise ApiError(409, f"Batch {name} is {row.state} and cannot be cancelled", code="batch_ended", retry=False)
        if row.state != "cancelling":
            moments = {**row.moments, "cancelling_at": int(context.now())}
            own = (BATCHES.c.id == name) & (BATCHES.c.state == row.state)
            connection.execute(update(BATCHES).where(own).values(state="cancelling", moments=moments))
            note_action(context, connection, caller, "batch.cancel", target=name)
        return find(connection, caller, name)
