"""Paths of the audit log; nobody changes a line of it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Select, select

from tunesmith.service.audit.schema import line_answer
from tunesmith.service.auth.caller import Caller
from tunesmith.service.auth.gate import Admin
from tunesmith.service.context import InContext
from tunesmith.service.db.tables.keeping import AUDIT
from tunesmith.service.lists import page


def audit_router() -> APIRouter:
    """The audit log: of the caller's project; of the whole service for whoever runs it."""
    router = APIRouter(tags=["audit"])

    @router.get("/audit")
    def lines(
        context: InContext,
        caller: Admin,
        *,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
        project_id: str | None = None,
        since: float | None = None,
        until: float | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        query = _lines(caller, project_id)
        equal = {AUDIT.c.actor: actor, AUDIT.c.action: action, AUDIT.c.target: target}
        for column, value in equal.items():
            if value is not None:
                query = query.where(column == value)
        if since is not None:
            query = query.where(AUDIT.c.created_at >= since)
        if until is not None:
            query = query.where(AUDIT.c.created_at < until)
        with context.database.read() as connection:
            return page(connection, query, AUDIT.c.id, line_answer, after=after, limit=limit)

    return router


def _lines(caller: Caller, project_id: str | None) -> Select[Any]:
    query = select(AUDIT)
    if not caller.is_operator:
        query = query.where(AUDIT.c.project_id == caller.project_id)
    return query if project_id is None else query.where(AUDIT.c.project_id == project_id)
