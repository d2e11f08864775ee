"""Lines of the audit log as answers have them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row


def line_answer(row: Row[Any]) -> dict[str, Any]:
    """Who did what to which thing, when, and from where."""
    return {
        "id": row.id,
        "object": "audit.entry",
        "project_id": row.project_id or None,
        "actor": row.actor,
        "action": row.action,
        "target": row.target,
        "detail": row.detail,
        "request_id": row.request_id,
        "client": row.client,
        "created_at": int(row.created_at),
    }
