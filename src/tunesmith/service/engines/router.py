"""What answers at this moment, for who runs the service."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy import Row, select

from tunesmith.service.auth.gate import Operator
from tunesmith.service.context import InContext
from tunesmith.service.db.tables.inference import ENGINES
from tunesmith.service.lists import listed


def engines_router() -> APIRouter:
    """The list of engines."""
    router = APIRouter()

    @router.get("/engines")
    def engines(_: Operator, context: InContext) -> dict[str, Any]:
        with context.database.read() as connection:
            rows = connection.execute(select(ENGINES).order_by(ENGINES.c.id)).all()
        return listed([_shown(row) for row in rows])

    return router


def _shown(row: Row[Any]) -> dict[str, Any]:
    """An engine without its address and token: it is asked through the service alone."""
    return {
        "id": row.id,
        "object": "engine",
        "base": row.base,
        "state": row.state,
        "reason": row.reason,
        "created_at": int(row.created_at),
        "used_at": int(row.used_at),
    }
