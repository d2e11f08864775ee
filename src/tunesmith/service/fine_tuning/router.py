"""OpenAI's routes of fine-tuning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from tunesmith.service.auth.gate import Admin, Member
from tunesmith.service.context import InContext
from tunesmith.service.errors import ApiError
from tunesmith.service.fine_tuning import permissions, service
from tunesmith.service.fine_tuning.create import keep_job, look_at, look_up
from tunesmith.service.fine_tuning.estimate import full_estimate
from tunesmith.service.fine_tuning.options import DRY_RUN, flag
from tunesmith.service.fine_tuning.schema import CreateJob, CreatePermissions, job_json
from tunesmith.service.shared.once import Keep, once

_METADATA = "metadata"
# The contract names no most; a page is one answer.
Limit = Annotated[int, Query(ge=1, le=1000)]
After = Annotated[str | None, Query(max_length=64)]


def fine_tuning_router() -> APIRouter:
    """Jobs, their events and checkpoints."""
    router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])

    @router.post("", response_model=None)
    def create(request: Request, body: CreateJob, caller: Member, context: InContext) -> JSONResponse:
        if flag(body.tunesmith, DRY_RUN):
            return JSONResponse(full_estimate(context, look_up(context, caller, body)))

        def make(keep: Keep) -> dict[str, Any]:
            asked = look_up(context, caller, body)
            examined = look_at(context, asked) if asked.is_small else None
            return keep_job(context, caller, asked, examined, keep)

        return once(context, caller, request.headers, "/fine_tuning/jobs", body.model_dump(mode="json"), make)

    @router.get("")
    def list_(
        request: Request, caller: Member, context: InContext, after: After = None, limit: Limit = 20
    ) -> dict[str, Any]:
        return service.list_jobs(context, caller, after=after, limit=limit, metadata=_metadata(request))

    @router.get("/{fine_tuning_job_id}")
    def retrieve(fine_tuning_job_id: str, caller: Member, context: InContext) -> dict[str, Any]:
        with context.database.read() as connection:
            row = service.find_job(connection, caller.project_id, fine_tuning_job_id)
        return job_json(row, context.settings.organization)

    @router.post("/{fine_tuning_job_id}/cancel")
    def cancel(fine_tuning_job_id: str, caller: Member, context: InContext) -> dict[str, Any]:
        return service.cancel(context, caller, fine_tuning_job_id)

    @router.post("/{fine_tuning_job_id}/pause")
    def pause(fine_tuning_job_id: str, caller: Member, context: InContext) -> dict[str, Any]:
        return service.pause(context, caller, fine_tuning_job_id)

    @router.post("/{fine_tuning_job_id}/resume")
    def resume(fine_tuning_job_id: str, caller: Member, context: InContext) -> dict[str, Any]:
        return service.resume(context, caller, fine_tuning_job_id)

    @router.get("/{fine_tuning_job_id}/events")
    def events(
        fine_tuning_job_id: str, caller: Member, context: InContext, after: After = None, limit: Limit = 20
    ) -> dict[str, Any]:
        return service.list_events(context, caller, fine_tuning_job_id, after=after, limit=limit)

    @router.get("/{fine_tuning_job_id}/checkpoints")
    def checkpoints(
        fine_tuning_job_id: str, caller: Member, context: InContext, after: After = None, limit: Limit = 10
    ) -> dict[str, Any]:
        return service.list_checkpoints(context, caller, fine_tuning_job_id, after=after, limit=limit)

    return router


def permissions_router() -> APIRouter:
    """Who may use a checkpoint beside its own project; names of checkpoints may hold slashes."""
    router = APIRouter(prefix="/fine_tuning/checkpoints", tags=["Fine-tuning"])

    @router.post("/{checkpoint:path}/permissions")
    def permit(checkpoint: str, body: CreatePermissions, caller: Admin, context: InContext) -> dict[str, Any]:
        return permissions.permit(context, caller, checkpoint, body.project_ids)

    @router.get("/{checkpoint:path}/permissions")
    def list_(
        checkpoint: str,
        caller: Admin,
        context: InContext,
        *,
        project_id: Annotated[str | None, Query(max_length=64)] = None,
        after: After = None,
        limit: Limit = 10,
        order: Literal["ascending", "descending"] = "descending",
    ) -> dict[str, Any]:
        return permissions.list_permissions(
            context,
            caller,
            checkpoint,
            project_id=project_id,
            after=after,
            limit=limit,
            order="asc" if order == "ascending" else "desc",
        )

    @router.delete("/{checkpoint:path}/permissions/{permission_id}")
    def withdraw(checkpoint: str, permission_id: str, caller: Admin, context: InContext) -> dict[str, Any]:
        return permissions.withdraw(context, caller, checkpoint, permission_id)

    return router


def _metadata(request: Request) -> dict[str, str] | str | None:
    """``metadata[k]=v`` and ``metadata=null`` of a query, which are no names that Python could have."""
    pairs = {}
    for name, value in request.query_params.multi_items():
        if name == _METADATA:
            if value != "null":
                raise ApiError(400, "metadata is null, or metadata[key]=value", code="invalid_value", param=_METADATA)
            return "null"
        if name.startswith(f"{_METADATA}[") and name.endswith("]"):
            pairs[name[len(_METADATA) + 1 : -1]] = value
    return pairs or None
