"""Webhooks of a project, and the events that wait for them."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.keeping import DELIVERIES, WEBHOOKS
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.ids import new_id
from tunesmith.service.shared.telling import note_action
from tunesmith.service.webhooks.addresses import require_plain_url

SECRET_PREFIX = "whsec_"  # noqa: S105  (what secrets begin with)
_SECRET_BYTES = 32
_MOST = 20
_KEEP_SECONDS = 30 * 86_400.0


def webhooks_of(caller: Caller) -> Select[Any]:
    """All webhooks of the caller's project."""
    return select(WEBHOOKS).where(WEBHOOKS.c.project_id == caller.project_id)


def find_webhook(connection: Connection, caller: Caller, webhook_id: str) -> Row[Any]:
    """A webhook of the caller's project.

    Raises:
        ApiError: 404.
    """
    row = connection.execute(webhooks_of(caller).where(WEBHOOKS.c.id == webhook_id)).first()
    if row is None:
        raise not_found("webhook", webhook_id, "webhook_id")
    return row


def create_webhook(context: Context, caller: Caller, url: str, events: list[str]) -> tuple[Row[Any], str]:
    """Make a webhook.

    Returns:
        Its row, and the secret by which the receiver knows who speaks; it is not shown again.

    Raises:
        ApiError: 400: not an address that may be asked; 409: the project has enough of them.
    """
    require_plain_url(context.settings, url)
    name = new_id("wh_")
    secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
    with context.database.write() as connection:
        mine = select(func.count()).select_from(WEBHOOKS).where(WEBHOOKS.c.project_id == caller.project_id)
        if connection.execute(mine).scalar_one() >= _MOST:
            raise ApiError(409, f"A project has {_MOST} webhooks at most", code="too_many_webhooks")
        row = {"id": name, "project_id": caller.project_id, "url": url, "secret": secret, "events": sorted(set(events))}
        connection.execute(insert(WEBHOOKS).values(**row, enabled=True, created_at=context.now()))
        detail = {"url": url, "events": row["events"]}
        note_action(context, connection, caller, "webhook.create", target=name, detail=detail)
        return find_webhook(connection, caller, name), secret


def change_webhook(context: Context, caller: Caller, webhook_id: str, values: Mapping[str, Any]) -> Row[Any]:
    """Change a webhook.

    Raises:
        ApiError: 400: not an address that may be asked; 404.
    """
    changed = {name: value for name, value in values.items() if value is not None}
    if "url" in changed:
        require_plain_url(context.settings, changed["url"])
    with context.database.write() as connection:
        find_webhook(connection, caller, webhook_id)
        if changed:
            connection.execute(update(WEBHOOKS).where(WEBHOOKS.c.id == webhook_id).values(**changed))
            note_action(context, connection, caller, "webhook.update", target=webhook_id, detail=changed)
        return find_webhook(connection, caller, webhook_id)


def delete_webhook(context: Context, caller: Caller, webhook_id: str) -> None:
    """Remove a webhook and what waits for it.

    Raises:
        ApiError: 404.
    """
    with context.database.write() as connection:
        find_webhook(connection, caller, webhook_id)
        connection.execute(delete(DELIVERIES).where(DELIVERIES.c.webhook_id == webhook_id))
        connection.execute(delete(WEBHOOKS).where(WEBHOOKS.c.id == webhook_id))
        note_action(context, connection, caller, "webhook.delete", target=webhook_id)


def send_test(context: Context, caller: Caller, webhook_id: str) -> Row[Any]:
    """Put an event on its way that says nothing, to see that it arrives.

    Raises:
        ApiError: 404.
    """
    now, name = context.now(), new_id("evt_")
    payload = {
        "id": name,
        "object": "event",
        "created_at": int(now),
        "type": "webhook.test",
        "data": {"id": webhook_id},
    }
    row = {"id": name, "webhook_id": webhook_id, "project_id": caller.project_id, "event": "webhook.test"}
    with context.database.write() as connection:
        find_webhook(connection, caller, webhook_id)
        moments = {"next_at": now, "created_at": now}
        connection.execute(insert(DELIVERIES).values(**row, payload=payload, state="waiting", tries=0, **moments))
        return connection.execute(select(DELIVERIES).where(DELIVERIES.c.id == name)).one()


def forget_delivered(context: Context) -> None:
    """Remove events of long ago that nobody waits for."""
    old = context.now() - _KEEP_SECONDS
    with context.database.write() as connection:
        connection.execute(delete(DELIVERIES).where(DELIVERIES.c.state != "waiting", DELIVERIES.c.created_at < old))
