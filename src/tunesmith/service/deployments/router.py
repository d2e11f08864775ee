"""Paths of deployments."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from tunesmith.service.auth.gate import Inference, Member
from tunesmith.service.context import InContext
from tunesmith.service.deployments.schema import ChangeDeployment, CreateDeployment
from tunesmith.service.deployments.service import change, create, remove, view, view_all
from tunesmith.service.lists import listed
from tunesmith.service.shared.once import Keep, once


def deployments_router() -> APIRouter:
    """The paths."""
    router = APIRouter(prefix="/deployments")

    @router.post("")
    def create_deployment(body: CreateDeployment, request: Request, caller: Member, context: InContext) -> JSONResponse:
        def make(keep: Keep) -> dict[str, Any]:
            made = create(context, caller, body)
            # How it is shown is asked of the engines, after it is made; its name keeps it from being made twice.
            with context.database.write() as connection:
                keep(connection, made)
            return made

        return once(context, caller, request.headers, request.url.path, body.model_dump(), make)

    @router.get("")
    def list_deployments(caller: Inference, context: InContext) -> dict[str, Any]:
        return listed(view_all(context, caller))

    @router.get("/{name}")
    def retrieve_deployment(name: str, caller: Inference, context: InContext) -> dict[str, Any]:
        return view(context, caller, name)

    @router.patch("/{name}")
    def change_deployment(name: str, body: ChangeDeployment, caller: Member, context: InContext) -> dict[str, Any]:
        return change(context, caller, name, body)

    @router.delete("/{name}")
    def delete_deployment(name: str, caller: Member, context: InContext) -> dict[str, Any]:
        return {"id": remove(context, caller, name), "object": "deployment", "deleted": True}

    return router
