"""Paths of use and prices."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse

from tunesmith.service.auth.gate import Inference, Member, Operator
from tunesmith.service.context import InContext
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.lists import listed as as_list
from tunesmith.service.shared.metering import KINDS, month_of, price, spent, stored_bytes
from tunesmith.service.shared.naming import offered
from tunesmith.service.usage.schema import Group, csv_lines, project_row, use_row
from tunesmith.service.usage.usage import hours_of, sums, sums_of_projects

Days = Annotated[date | None, Query()]
_EVERYTHING: tuple[Group, ...] = ("day", "model", "key", "kind")


def usage_router() -> APIRouter:
    """What the caller's project has used, and every project for who runs the service."""
    router = APIRouter(tags=["usage"])

    @router.get("/usage")
    def use(
        context: InContext,
        caller: Member,
        start: Days = None,
        end: Days = None,
        group_by: Annotated[list[Group], Query()] = [],  # noqa: B006  (FastAPI copies it)
    ) -> dict[str, Any]:
        query = sums(caller.project_id, hours_of(context, start, end), group_by)
        currency = context.settings.currency
        with context.database.read() as connection:
            rows = [use_row(row, currency) for row in connection.execute(query)]
        return {**as_list(rows), "cost": sum(row["cost"] for row in rows), "currency": currency}

    @router.get("/usage/projects")
    def use_of_projects(context: InContext, _: Operator, start: Days = None, end: Days = None) -> dict[str, Any]:
        query = sums_of_projects(hours_of(context, start, end))
        currency = context.settings.currency
        with context.database.read() as connection:
            rows = [project_row(row, currency) for row in connection.execute(query)]
        return {**as_list(rows), "cost": sum(row["cost"] for row in rows), "currency": currency}

    @router.get("/usage/export")
    def export(context: InContext, caller: Member, start: Days = None, end: Days = None) -> Response:
        query = sums(caller.project_id, hours_of(context, start, end), _EVERYTHING)

        def rows() -> Iterator[dict[str, Any]]:
            with context.database.read() as connection:
                for row in connection.execute(query):
                    yield {"project_id": caller.project_id, **use_row(row, context.settings.currency)}

        headers = {"Content-Disposition": 'attachment; filename="usage.csv"'}
        return StreamingResponse(csv_lines(rows()), media_type="text/csv; charset=utf-8", headers=headers)

    @router.get("/usage/now")
    def now(context: InContext, caller: Member) -> dict[str, Any]:
        with context.database.read() as connection:
            row = connection.execute(PROJECTS.select().where(PROJECTS.c.id == caller.project_id)).one()
            return {
                "object": "usage.now",
                "project_id": row.id,
                "spent_this_month": spent(connection, row.id, month_of(context.now())),
                "budget": row.budget,
                "budget_action": row.budget_action,
                "currency": context.settings.currency,
                "storage_bytes": stored_bytes(connection, row.id),
            }

    @router.get("/prices")
    def prices(context: InContext, _: Inference) -> dict[str, Any]:
        rows = [{"model": name, **{kind: price(context, name, kind) for kind in KINDS}} for name in offered(context)]
        return {**as_list(rows), "currency": context.settings.currency, "per": 1_000_000}

    return router
