"""The paths of files."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from tunesmith.service.auth.gate import Member
from tunesmith.service.context import InContext
from tunesmith.service.files import service
from tunesmith.service.files.checks import check_file
from tunesmith.service.files.schema import CheckFile, CreateFile, DeletedFile, told_page
from tunesmith.service.lists import Order
from tunesmith.service.shared.file_shape import told_file
from tunesmith.service.shared.receiving import form_of, received_form

_Limit = Annotated[int, Query(ge=1, le=10_000)]


def files_router() -> APIRouter:
    """OpenAI's paths."""
    router = APIRouter(tags=["files"])

    @router.post("/files", response_model=None)
    async def create(request: Request, context: InContext, caller: Member) -> Response:
        wanted = await run_in_threadpool(service.wanted_file, context, caller)
        async with received_form(request, context, wanted) as received:
            asked = form_of(CreateFile, received.fields)
            return await run_in_threadpool(service.create_file, context, caller, request.headers, received, asked)

    @router.get("/files")
    def list_all(
        context: InContext,
        caller: Member,
        purpose: str | None = None,
        after: str | None = None,
        *,
        limit: _Limit = 10_000,
        order: Order = "desc",
    ) -> dict[str, Any]:
        return told_page(service.list_files(context, caller, service.Listing(purpose, after, limit, order)))

    @router.get("/files/{file_id}")
    def retrieve(file_id: str, context: InContext, caller: Member) -> dict[str, Any]:
        return told_file(service.retrieve_file(context, caller, file_id))

    @router.delete("/files/{file_id}")
    def delete(file_id: str, context: InContext, caller: Member) -> DeletedFile:
        service.delete_file(context, caller, file_id)
        return DeletedFile(id=file_id)

    @router.get("/files/{file_id}/content", response_model=None)
    def content(file_id: str, context: InContext, caller: Member) -> Response:
        row = service.retrieve_file(context, caller, file_id)
        headers = {
            "content-length": str(row.bytes),
            # Never shown by a browser, whatever is in it; the name is quoted, so that it ends no header.
            "content-disposition": f"attachment; filename*=UTF-8''{quote(row.filename, safe='')}",
        }
        return StreamingResponse(service.content_of(context, row), 200, headers, "application/octet-stream")

    return router


def file_checks_router() -> APIRouter:
    """Our own: a training file is judged before a job is made of it."""
    router = APIRouter(tags=["files"])

    @router.post("/files/{file_id}/check")
    def check(file_id: str, context: InContext, caller: Member, asked: CheckFile | None = None) -> dict[str, Any]:
        return check_file(context, caller, file_id, asked or CheckFile())

    return router
