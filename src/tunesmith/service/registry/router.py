"""Paths of the registry. A version is called by its model's name, which has colons, and slashes where its base has."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse

from tunesmith.service.auth.gate import Inference, Member
from tunesmith.service.context import InContext
from tunesmith.service.lists import listed
from tunesmith.service.registry.schema import GiveLabel
from tunesmith.service.registry.service import card, give_label, list_versions, show, take_label


def registry_router() -> APIRouter:
    """The paths."""
    router = APIRouter(prefix="/registry")

    @router.get("")
    def versions(
        caller: Inference,
        context: InContext,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> dict[str, Any]:
        data, has_more = list_versions(context, caller, after, limit)
        return listed(data, has_more=has_more)

    @router.get("/{model:path}/card", response_model=None)
    def model_card(model: str, caller: Inference, context: InContext) -> PlainTextResponse:
        return PlainTextResponse(card(context, caller, model), media_type="text/markdown; charset=utf-8")

    @router.get("/{model:path}")
    def version(model: str, caller: Inference, context: InContext) -> dict[str, Any]:
        return show(context, caller, model)

    @router.post("/{model:path}/labels")
    def give(model: str, body: GiveLabel, caller: Member, context: InContext) -> dict[str, Any]:
        return give_label(context, caller, model, body.label, body.kind)

    @router.delete("/{model:path}/labels/{label}")
    def take(model: str, label: str, caller: Member, context: InContext) -> dict[str, Any]:
        return take_label(context, caller, model, label)

    return router
