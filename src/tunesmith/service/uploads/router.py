"""The paths of uploads."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from tunesmith.service.auth.gate import Member
from tunesmith.service.context import InContext
from tunesmith.service.shared.receiving import received_form
from tunesmith.service.uploads import service
from tunesmith.service.uploads.schema import CompleteUpload, CreateUpload
from tunesmith.service.uploads.whole import complete_upload


def uploads_router() -> APIRouter:
    """OpenAI's paths."""
    router = APIRouter(tags=["uploads"])

    @router.post("/uploads", response_model=None)
    def create(request: Request, asked: CreateUpload, context: InContext, caller: Member) -> Response:
        return service.create_upload(context, caller, request.headers, asked)

    @router.post("/uploads/{upload_id}/parts", response_model=None)
    async def create_part(upload_id: str, request: Request, context: InContext, caller: Member) -> Response:
        wanted = await run_in_threadpool(service.wanted_part, context, caller, upload_id)
        async with received_form(request, context, wanted) as received:
            return await run_in_threadpool(service.create_part, context, caller, request.headers, upload_id, received)

    @router.post("/uploads/{upload_id}/complete")
    def complete(upload_id: str, asked: CompleteUpload, context: InContext, caller: Member) -> dict[str, Any]:
        return complete_upload(context, caller, upload_id, asked)

    @router.post("/uploads/{upload_id}/cancel")
    def cancel(upload_id: str, context: InContext, caller: Member) -> dict[str, Any]:
        return service.cancel_upload(context, caller, upload_id)

    return router
