"""The HTTP side of the inference process: OpenAI's chat interface, or labels of a head, behind a bearer token."""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.errors import TunesmithError
from tunesmith.generation import Generation, TokenPiece
from tunesmith.inference.classifier import Classifier
from tunesmith.inference.prompts import RefusedError, decoding_for, prompt_tokens
from tunesmith.inference.worker import GenerationWorker, Job
from tunesmith.wire.chat import (
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    ErrorBody,
    ErrorDetail,
    ModelList,
    ModelObject,
    Usage,
)
from tunesmith.wire.classify import Classification, ClassifyRequest

_DISCONNECT_POLL_SECONDS = 0.1
_CLIENT_GONE = 499


def make_app(
    worker: GenerationWorker, tokenizer: Any, *, names: Sequence[str], context: int | None, token: str
) -> ASGIApp:
    """The application.

    Args:
        worker: Answers the jobs; started.
        tokenizer: Used here only to render prompts; not shared with the worker, whose thread runs beside this one.
        names: Models that can be named, the worker knows them all.
        context: The most tokens of prompt and answer together.
        token: What ``Authorization: Bearer`` must bring, on every path but ``/health``.
    """
    app = _bare_app(names)

    @app.post("/v1/classify")
    async def classify() -> None:
        raise RefusedError(
            400,
            "this model writes texts and has no head; ask it by /v1/chat/completions",
            param="model",
            code="model_writes",
        )

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        _require_named(body.model, names)
        prompt = prompt_tokens(tokenizer, body)
        decoding = decoding_for(body, len(prompt), context)
        if body.stream:
            return StreamingResponse(
                _stream(worker, body, prompt, decoding),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache"},
            )
        job = Job(body.model, prompt, decoding)
        worker.submit(job)
        answer = await _result(job, request)
        if answer is None:
            return Response(status_code=_CLIENT_GONE)
        return JSONResponse(_completion(body.model, answer).model_dump())

    return guarded(app, token)


def make_head_app(classifier: Classifier, *, names: Sequence[str], token: str) -> ASGIApp:
    """The application of a model with a head, which puts labels on texts and writes none.

    Args:
        classifier: Answers the requests.
        names: Models that can be named, the classifier knows them all.
        token: As in :func:`make_app`.
    """
    app = _bare_app(names)

    @app.post("/v1/chat/completions")
    async def chat() -> None:
        raise RefusedError(
            400,
            "this model puts labels on texts and writes none; use `tunesmith classify`, "
            "tunesmith.load(...).classify, or /v1/classify",
            param="model",
            code="model_classifies",
        )

    @app.post("/v1/classify", response_model=None)
    def classify(body: ClassifyRequest) -> Response:
        _require_named(body.model, names)
        found = Classification(model=body.model, data=classifier.classify(body.model, body.input))
        return JSONResponse(found.model_dump(exclude_none=True))

    return guarded(app, token)


def _bare_app(names: Sequence[str]) -> FastAPI:
    """What every application has: its health, its models, and errors in OpenAI's shape."""
    app = FastAPI(title="Tunesmith inference", docs_url=None, redoc_url=None, openapi_url=None)
    started = int(time.time())
    _handle_errors(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[ModelObject(id=name, created=started) for name in names])

    return app


def _require_named(model: str, names: Sequence[str]) -> None:
    if model not in names:
        known = ", ".join(names)
        raise RefusedError(
            404,
            f"The model `{model}` does not exist; served here: {known}",
            param="model",
            code="model_not_found",
        )


def guarded(app: ASGIApp, token: str) -> ASGIApp:
    """Let only bearers of the token in; other users of the machine reach the loopback address too."""
    expected = f"Bearer {token}".encode()

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, expected):
                detail = ErrorDetail(
                    message="Incorrect API key provided", type="authentication_error", code="invalid_api_key"
                )
                await _error_answer(401, detail)(scope, receive, send)
                return
        await app(scope, receive, send)

    return guard


async def _result(job: Job, request: Request) -> Generation | None:
    """Wait for the answer; None, and the work stopped, when the client went away."""
    done = asyncio.wrap_future(job.done)
    while not done.done():
        await asyncio.wait({done}, timeout=_DISCONNECT_POLL_SECONDS)
        if not done.done() and await request.is_disconnected():
            job.cancelled.set()
            done.cancel()
            return None
    return done.result()


async def _stream(
    worker: GenerationWorker, body: ChatRequest, prompt: list[int], decoding: Any
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[TokenPiece | BaseException | None] = asyncio.Queue()

    def hand_over(piece: TokenPiece | BaseException | None) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, piece)

    job = Job(body.model, prompt, decoding, on_piece=hand_over)
    job.done.add_done_callback(lambda done: hand_over(done.exception()))
    common: dict[str, Any] = {"id": _new_id(), "created": int(time.time()), "model": body.model}
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    try:
        worker.submit(job)
        yield _event(ChatChunk(**common, choices=[ChunkChoice(delta=Delta(role="assistant", content=""))]))
        while (piece := await pieces.get()) is not None:
            if isinstance(piece, BaseException):
                yield _data(ErrorBody(error=_detail_of(piece)).model_dump_json())
                return
            if piece.text:
                yield _event(ChatChunk(**common, choices=[ChunkChoice(delta=Delta(content=piece.text))]))
            if piece.finish_reason is not None:
                yield _event(
                    ChatChunk(**common, choices=[ChunkChoice(delta=Delta(), finish_reason=piece.finish_reason)])
                )
                if with_usage:
                    yield _event(
                        ChatChunk(**common, choices=[], usage=_usage(piece.prompt_tokens, piece.completion_tokens))
                    )
        yield _data("[DONE]")
    finally:
        # Reached early when the client went away.
        job.cancelled.set()


def _completion(model: str, answer: Generation) -> ChatCompletion:
    return ChatCompletion(
        id=_new_id(),
        created=int(time.time()),
        model=model,
        choices=[Choice(message=AnswerMessage(content=answer.text), finish_reason=answer.finish_reason)],
        usage=_usage(answer.prompt_tokens, len(answer.token_ids)),
    )


def _usage(prompt: int, completion: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def _event(chunk: ChatChunk) -> bytes:
    data = chunk.model_dump()
    for choice in data["choices"]:
        choice["delta"] = {key: value for key, value in choice["delta"].items() if value is not None}
    return _data(orjson.dumps(data).decode())


def _data(text: str) -> bytes:
    return f"data: {text}\n\n".encode()


def _error_answer(status: int, detail: ErrorDetail) -> JSONResponse:
    return JSONResponse(ErrorBody(error=detail).model_dump(), status_code=status)


def _detail_of(error: BaseException) -> ErrorDetail:
    code = error.code if isinstance(error, TunesmithError) else None
    return ErrorDetail(message=str(error) or type(error).__name__, type="server_error", code=code)


def _handle_errors(app: FastAPI) -> None:
    """Every failure in OpenAI's shape, FastAPI's own included."""

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return _error_answer(error.status, error.detail)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        param = ".".join(str(part) for part in found["loc"] if part != "body") or None
        message = f"Invalid value for '{param}': {found['msg']}" if param else f"Invalid request: {found['msg']}"
        return _error_answer(
            400, ErrorDetail(message=message, type="invalid_request_error", param=param, code="invalid_value")
        )

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{error.detail}: {request.method} {request.url.path}"
        return _error_answer(error.status_code, ErrorDetail(message=message, type="invalid_request_error"))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return _error_answer(500, _detail_of(error))
