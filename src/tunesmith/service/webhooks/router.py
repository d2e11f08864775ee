"""Paths of webhooks."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import select

from tunesmith.service.auth.gate import Admin
from tunesmith.service.context import InContext
from tunesmith.service.db.tables.keeping import DELIVERIES, WEBHOOKS
from tunesmith.service.lists import page
from tunesmith.service.webhooks import webhooks
from tunesmith.service.webhooks.schema import NewWebhook, WebhookChange, delivery_answer, webhook_answer

Limit = Annotated[int, Query(ge=1, le=1000)]


def webhooks_router() -> APIRouter:
    """Webhooks of the caller's project."""
    router = APIRouter(prefix="/webhooks", tags=["webhooks"])

    @router.post("")
    def create(body: NewWebhook, context: InContext, caller: Admin) -> dict[str, Any]:
        row, secret = webhooks.create_webhook(context, caller, body.url, body.events)
        return webhook_answer(row, secret)

    @router.get("")
    def listed(context: InContext, caller: Admin, after: str | None = None, limit: Limit = 100) -> dict[str, Any]:
        query = webhooks.webhooks_of(caller)
        with context.database.read() as connection:
            return page(connection, query, WEBHOOKS.c.id, webhook_answer, after=after, limit=limit)

    @router.get("/{webhook_id}")
    def one(webhook_id: str, context: InContext, caller: Admin) -> dict[str, Any]:
        with context.database.read() as connection:
            return webhook_answer(webhooks.find_webhook(connection, caller, webhook_id))

    @router.post("/{webhook_id}")
    def change(webhook_id: str, body: WebhookChange, context: InContext, caller: Admin) -> dict[str, Any]:
        return webhook_answer(webhooks.change_webhook(context, caller, webhook_id, body.model_dump(exclude_unset=True)))

    @router.delete("/{webhook_id}")
    def remove(webhook_id: str, context: InContext, caller: Admin) -> dict[str, Any]:
        webhooks.delete_webhook(context, caller, webhook_id)
        return {"id": webhook_id, "object": "webhook.deleted", "deleted": True}

    @router.post("/{webhook_id}/test")
    def test(webhook_id: str, context: InContext, caller: Admin) -> dict[str, Any]:
        return delivery_answer(webhooks.send_test(context, caller, webhook_id))

    @router.get("/{webhook_id}/deliveries")
    def deliveries(
        webhook_id: str, context: InContext, caller: Admin, after: str | None = None, limit: Limit = 100
    ) -> dict[str, Any]:
        with context.database.read() as connection:
            hook = webhooks.find_webhook(connection, caller, webhook_id)
            mine = select(DELIVERIES).where(
                DELIVERIES.c.webhook_id == hook.id, DELIVERIES.c.project_id == caller.project_id
            )
            return page(connection, mine, DELIVERIES.c.id, delivery_answer, after=after, limit=limit)

    return router
