"""Routes for jobs beyond OpenAI's contract: estimates, a live stream, and what a job's run has left."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from tunesmith.service.auth.gate import Member
from tunesmith.service.context import InContext
from tunesmith.service.fine_tuning.create import look_up
from tunesmith.service.fine_tuning.estimate import full_estimate
from tunesmith.service.fine_tuning.left import job_log, job_recipe, job_report
from tunesmith.service.fine_tuning.schema import CreateJob
from tunesmith.service.fine_tuning.service import find_job
from tunesmith.service.fine_tuning.stream import stream_job

_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def jobs_router() -> APIRouter:
    """Estimates and pages of jobs."""
    router = APIRouter(tags=["Jobs"])

    @router.post("/estimates")
    def estimate(body: CreateJob, caller: Member, context: InContext) -> dict[str, Any]:
        return full_estimate(context, look_up(context, caller, body))

    @router.get("/jobs/{job_id}/stream", response_model=None)
    def stream(
        job_id: str,
        caller: Member,
        context: InContext,
        last_event_id: Annotated[str | None, Header(max_length=64)] = None,
        after: Annotated[str | None, Query(max_length=64)] = None,
    ) -> StreamingResponse:
        with context.database.read() as connection:
            find_job(connection, caller.project_id, job_id)
        pieces = stream_job(context, caller.project_id, job_id, last_event_id or after)
        return StreamingResponse(pieces, media_type="text/event-stream", headers=_STREAM_HEADERS)

    @router.get("/jobs/{job_id}/report", response_model=None)
    def report(
        job_id: str,
        caller: Member,
        context: InContext,
        form: Annotated[Literal["json", "html", "md"], Query(alias="format")] = "json",
    ) -> Response:
        content, media_type = job_report(context, caller.project_id, job_id, form)
        return Response(content, media_type=media_type)

    @router.get("/jobs/{job_id}/recipe")
    def recipe(job_id: str, caller: Member, context: InContext) -> dict[str, Any]:
        return job_recipe(context, caller.project_id, job_id)

    @router.get("/jobs/{job_id}/logs", response_class=PlainTextResponse)
    def logs(job_id: str, caller: Member, context: InContext) -> str:
        return job_log(context, caller.project_id, job_id)

    return router
