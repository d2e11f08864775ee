"""Webhooks and deliveries as requests and answers have them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import Row

from tunesmith.service.shared.telling import EVENTS


def _known(event: str) -> str:
    if event not in EVENTS:
        raise ValueError(f"one of {', '.join(EVENTS)}")
    return event


Events = Annotated[list[Annotated[str, AfterValidator(_known)]], Field(min_length=1, max_length=len(EVENTS))]


class NewWebhook(BaseModel):
    """Somebody who wants to be told."""

    model_config = ConfigDict(extra="forbid")
    url: Annotated[str, Field(min_length=1, max_length=2048)]
    events: Events


class WebhookChange(BaseModel):
    """What is to change; what is not named stays."""

    model_config = ConfigDict(extra="forbid")
    url: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    events: Events | None = None
    enabled: bool | None = None


def webhook_answer(row: Row[Any], secret: str | None = None) -> dict[str, Any]:
    """A webhook; its secret only when it has just been made."""
    shown = {
        "id": row.id,
        "object": "webhook",
        "url": row.url,
        "events": row.events,
        "enabled": row.enabled,
        "created_at": int(row.created_at),
    }
    return shown if secret is None else {**shown, "secret": secret}


def delivery_answer(row: Row[Any]) -> dict[str, Any]:
    """An event on its way, or where it got to."""
    return {
        "id": row.id,
        "object": "webhook.delivery",
        "webhook_id": row.webhook_id,
        "event": row.event,
        "payload": row.payload,
        "state": row.state,
        "tries": row.tries,
        "next_at": int(row.next_at) if row.state == "waiting" else None,
        "answer": row.answer,
        "created_at": int(row.created_at),
    }
