"""OpenAI's paths of batches."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from sqlalchemy import select

from tunesmith.service.auth.gate import Inference, Member
from tunesmith.service.batches.schema import CreateBatch, shown
from tunesmith.service.batches.service import cancel, create, find
from tunesmith.service.context import InContext
from tunesmith.service.db.tables.inference import BATCHES
from tunesmith.service.lists import page
from tunesmith.service.shared.once import Keep, once


def batches_router() -> APIRouter:
    """The paths."""
    router = APIRouter(prefix="/batches")

    @router.post("")
    def create_batch(body: CreateBatch, request: Request, caller: Member, context: InContext) -> JSONResponse:
        body.check()
        asked = body.model_dump()

        def make(keep: Keep) -> dict[str, Any]:
            return create(context, caller, body, keep)

        return once(context, caller, request.headers, request.url.path, asked, make)

    @router.get("")
    def list_batches(
        caller: Inference,
        context: InContext,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> dict[str, Any]:
        query = select(BATCHES).where(BATCHES.c.project_id == caller.project_id)
        with context.database.read() as connection:
            return page(connection, query, BATCHES.c.id, shown, after=after, limit=limit)

    @router.get("/{batch_id}")
    def retrieve_batch(batch_id: str, caller: Inference, context: InContext) -> dict[str, Any]:
        with context.database.read() as connection:
            return shown(find(connection, caller, batch_id))

    @router.post("/{batch_id}/cancel")
    def cancel_batch(batch_id: str, caller: Member, context: InContext) -> dict[str, Any]:
        return shown(cancel(context, caller, batch_id))

    return router
