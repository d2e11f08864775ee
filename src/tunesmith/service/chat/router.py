"""The paths by which models are asked."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from tunesmith.service.auth.caller import Caller
from tunesmith.service.auth.gate import Inference
from tunesmith.service.chat.relay import Relay
from tunesmith.service.chat.schema import Path, read_question
from tunesmith.service.chat.service import count, find
from tunesmith.service.context import Context, InContext

# Names of models may have slashes, and Azure's clients send them as they are.
_AZURE = "/openai/deployments/{deployment:path}"


def chat_router() -> APIRouter:
    """OpenAI's paths."""
    router = APIRouter()

    @router.post("/chat/completions", response_model=None)
    async def chat(request: Request, caller: Inference, context: InContext) -> Response:
        return await _answer(request, caller, context, "/v1/chat/completions")

    @router.post("/completions", response_model=None)
    async def complete(request: Request, caller: Inference, context: InContext) -> Response:
        return await _answer(request, caller, context, "/v1/completions")

    @router.post("/embeddings", response_model=None)
    async def embed(request: Request, caller: Inference, context: InContext) -> Response:
        return await _answer(request, caller, context, "/v1/embeddings")

    return router


def classify_router() -> APIRouter:
    """The path of models that put labels on texts."""
    router = APIRouter()

    @router.post("/classify", response_model=None)
    async def classify(request: Request, caller: Inference, context: InContext) -> Response:
        return await _answer(request, caller, context, "/v1/classify")

    return router


def azure_router() -> APIRouter:
    """Azure's paths, which name the deployment."""
    router = APIRouter()

    @router.post(_AZURE + "/chat/completions", response_model=None)
    async def chat(deployment: str, request: Request, caller: Inference, context: InContext) -> Response:
        return await _answer(request, caller, context, "/v1/chat/completions", deployment)

    @router.post(_AZURE + "/completions", response_model=None)
    async def complete(deployment: str, request: Request, caller: Inference, context: InContext) -> Response:
        return await _answer(request, caller, context, "/v1/completions", deployment)

    @router.post(_AZURE + "/embeddings", response_model=None)
    async def embed(deployment: str, request: Request, caller: Inference, context: InContext) -> Response:
        return await _answer(request, caller, context, "/v1/embeddings", deployment)

    return router


async def _answer(
    request: Request, caller: Caller, context: Context, path: Path, deployment: str | None = None
) -> Response:
    question = read_question(path, await request.body(), deployment)
    found = await find(context, caller, question)
    relay = Relay(
        context,
        question,
        found.chosen,
        found.place,
        partial(count, context, caller, found.chosen),
        project_id=caller.project_id,
        headers=found.headers,
    )
    return await relay.answer(request)
