"""Paths of evaluations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import select

from tunesmith.service.auth.gate import Member
from tunesmith.service.context import InContext
from tunesmith.service.db.tables.evaluations import EVALUATIONS
from tunesmith.service.evaluations.reports import read_report
from tunesmith.service.evaluations.schema import CreateEvaluation, shown
from tunesmith.service.evaluations.service import cancel, create, find, remove
from tunesmith.service.lists import page
from tunesmith.service.shared.once import Keep, once


def evaluations_router() -> APIRouter:
    """The paths."""
    router = APIRouter(prefix="/evaluations", tags=["Evaluations"])

    @router.post("")
    def create_evaluation(body: CreateEvaluation, request: Request, caller: Member, context: InContext) -> JSONResponse:
        body.check()

        def make(keep: Keep) -> dict[str, Any]:
            return create(context, caller, body, keep)

        return once(context, caller, request.headers, request.url.path, body.model_dump(), make)

    @router.get("")
    def list_evaluations(
        caller: Member,
        context: InContext,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> dict[str, Any]:
        query = select(EVALUATIONS).where(EVALUATIONS.c.project_id == caller.project_id)
        with context.database.read() as connection:
            return page(connection, query, EVALUATIONS.c.id, shown, after=after, limit=limit)

    @router.get("/{evaluation_id}")
    def retrieve_evaluation(evaluation_id: str, caller: Member, context: InContext) -> dict[str, Any]:
        with context.database.read() as connection:
            return shown(find(connection, caller, evaluation_id))

    @router.post("/{evaluation_id}/cancel")
    def cancel_evaluation(evaluation_id: str, caller: Member, context: InContext) -> dict[str, Any]:
        return shown(cancel(context, caller, evaluation_id))

    @router.delete("/{evaluation_id}")
    def delete_evaluation(evaluation_id: str, caller: Member, context: InContext) -> dict[str, Any]:
        return remove(context, caller, evaluation_id)

    @router.get("/{evaluation_id}/report", response_model=None)
    def evaluation_report(
        evaluation_id: str,
        caller: Member,
        context: InContext,
        form: Annotated[Literal["json", "html", "md"], Query(alias="format")] = "json",
    ) -> Response:
        with context.database.read() as connection:
            row = find(connection, caller, evaluation_id)
        content, media_type = read_report(context, row, form)
        return Response(content, media_type=media_type)

    return router
