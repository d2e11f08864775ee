"""OpenAI's paths of models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from tunesmith.service.auth.gate import Inference, Member
from tunesmith.service.context import InContext
from tunesmith.service.models.schema import deleted
from tunesmith.service.models.service import delete_model, find_model, list_models


def models_router() -> APIRouter:
    """The paths; names have colons, and may have slashes."""
    router = APIRouter(prefix="/models")

    @router.get("")
    def models(caller: Inference, context: InContext) -> dict[str, Any]:
        with context.database.read() as connection:
            return {"object": "list", "data": list_models(context, connection, caller)}

    @router.get("/{model:path}")
    def model(model: str, caller: Inference, context: InContext) -> dict[str, Any]:
        with context.database.read() as connection:
            return find_model(context, connection, caller, model)

    @router.delete("/{model:path}")
    def delete(model: str, caller: Member, context: InContext) -> dict[str, Any]:
        delete_model(context, caller, model)
        return deleted(model)

    return router
