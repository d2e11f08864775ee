"""Who did what (the audit log), and who wants to be told of it (webhooks). Both are written with what they tell of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select

from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.keeping import AUDIT, DELIVERIES, WEBHOOKS
from tunesmith.service.errors import one_line
from tunesmith.service.ids import new_id

# What a webhook may want to hear of; the names are OpenAI's where OpenAI has them.
EVENTS = (
    "fine_tuning.job.created",
    # Its turn has come; again after a pause.
    "fine_tuning.job.running",
    "fine_tuning.job.checkpoint.created",
    "fine_tuning.job.paused",
    # It waits for its turn again.
    "fine_tuning.job.resumed",
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "batch.completed",
    "batch.failed",
    "batch.cancelled",
    "batch.expired",
    "evaluation.succeeded",
    "evaluation.failed",
    "evaluation.cancelled",
    "budget.exceeded",
)


def note_action(
    context: Context,
    connection: Connection,
    caller: Caller,
    action: str,
    *,
    target: str,
    detail: Mapping[str, Any] | None = None,
    project_id: str | None = None,
) -> None:
    """Write into the audit log.

    Args:
        context: The service.
        connection: Of the transaction that does what is noted.
        caller: Who.
        action: What, such as ``api_key.create``.
        target: To which thing, by its id.
        detail: More of it, without secrets.
        project_id: Whose thing it is, where that is not the caller's.
    """
    connection.execute(
        insert(AUDIT).values(
            id=new_id("audit_"),
            project_id=project_id or caller.project_id,
            actor=one_line(caller.name),
            action=action,
            target=one_line(target),
            detail=None if detail is None else dict(detail),
            request_id=caller.request_id,
            client=caller.client,
            created_at=context.now(),
        )
    )


def tell(context: Context, connection: Connection, project_id: str, event: str, data: Mapping[str, Any]) -> None:
    """Let a project's webhooks be told; they are asked later, outside of the transaction."""
    now = context.now()
    wanted = select(WEBHOOKS).where(WEBHOOKS.c.project_id == project_id, WEBHOOKS.c.enabled)
    for hook in connection.execute(wanted).all():
        if event not in hook.events:
            continue
        name = new_id("evt_")
        payload = {"id": name, "object": "event", "created_at": int(now), "type": event, "data": dict(data)}
        connection.execute(
            insert(DELIVERIES).values(
                id=name,
                webhook_id=hook.id,
                project_id=project_id,
                event=event,
                payload=payload,
                state="waiting",
                tries=0,
                next_at=now,
                created_at=now,
            )
        )
