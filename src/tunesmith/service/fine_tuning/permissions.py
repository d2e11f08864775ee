"""Other projects may be let use a checkpoint, or a tuned model: by who manages the project that it is of."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, delete, select

from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.jobs import CHECKPOINT_PERMISSIONS
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.errors import not_found
from tunesmith.service.fine_tuning.schema import permission_json
from tunesmith.service.ids import new_id
from tunesmith.service.lists import Order, listed, page
from tunesmith.service.shared.telling import note_action

_PARAM = "fine_tuned_model_checkpoint"


def permit(context: Context, caller: Caller, checkpoint: str, project_ids: list[str]) -> dict[str, Any]:
    """Let projects use a checkpoint; those that may already stay as they are. Answers a list, as the contract does.

    Raises:
        ApiError: 404: there is no such checkpoint or project.
    """
    with context.database.write() as connection:
        _require_own(connection, caller, checkpoint)
        for project_id in dict.fromkeys(project_ids):
            known = select(PROJECTS.c.id).where(PROJECTS.c.id == project_id, PROJECTS.c.archived_at.is_(None))
            if connection.execute(known).first() is None:
                raise not_found("project", project_id, "project_ids")
            row = {
                "id": new_id("cp_"),
                "checkpoint": checkpoint,
                "project_id": project_id,
                "created_at": context.now(),
            }
            context.database.upsert(connection, CHECKPOINT_PERMISSIONS, row, ["checkpoint", "project_id"])
        note_action(
            context, connection, caller, "checkpoint.permit", target=checkpoint, detail={"projects": project_ids}
        )
        query = select(CHECKPOINT_PERMISSIONS).where(
            CHECKPOINT_PERMISSIONS.c.checkpoint == checkpoint, CHECKPOINT_PERMISSIONS.c.project_id.in_(project_ids)
        )
        rows = connection.execute(query.order_by(CHECKPOINT_PERMISSIONS.c.id.desc())).all()
    return listed([permission_json(row) for row in rows])


def list_permissions(
    context: Context,
    caller: Caller,
    checkpoint: str,
    *,
    project_id: str | None,
    after: str | None,
    limit: int,
    order: Order,
) -> dict[str, Any]:
    """A page of who may use a checkpoint."""
    with context.database.read() as connection:
        _require_own(connection, caller, checkpoint)
        query = select(CHECKPOINT_PERMISSIONS).where(CHECKPOINT_PERMISSIONS.c.checkpoint == checkpoint)
        if project_id is not None:
            query = query.where(CHECKPOINT_PERMISSIONS.c.project_id == project_id)
        name = CHECKPOINT_PERMISSIONS.c.id
        return page(connection, query, name, permission_json, after=after, limit=limit, order=order)


def withdraw(context: Context, caller: Caller, checkpoint: str, permission_id: str) -> dict[str, Any]:
    """Take a permission back.

    Raises:
        ApiError: 404: there is no such permission or checkpoint.
    """
    with context.database.write() as connection:
        _require_own(connection, caller, checkpoint)
        this = (CHECKPOINT_PERMISSIONS.c.id == permission_id) & (CHECKPOINT_PERMISSIONS.c.checkpoint == checkpoint)
        row = connection.execute(select(CHECKPOINT_PERMISSIONS.c.project_id).where(this)).first()
        if row is None or connection.execute(delete(CHECKPOINT_PERMISSIONS).where(this)).rowcount != 1:
            raise not_found("checkpoint permission", permission_id, "permission_id")
        detail = {"projects": [row.project_id]}
        note_action(context, connection, caller, "checkpoint.withdraw", target=checkpoint, detail=detail)
    return {"id": permission_id, "object": "checkpoint.permission", "deleted": True}


def _require_own(connection: Connection, caller: Caller, checkpoint: str) -> Row[Any]:
    query = select(TUNED_MODELS).where(
        TUNED_MODELS.c.id == checkpoint,
        TUNED_MODELS.c.project_id == caller.project_id,
        TUNED_MODELS.c.deleted_at.is_(None),
    )
    row: Row[Any] | None = connection.execute(query).first()
    if row is None:
        raise not_found("fine-tuned model checkpoint", checkpoint, _PARAM)
    return row
