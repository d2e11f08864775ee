"""``/v1/chat/completions``."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tunesmith.inference.catalog import ModelCatalog
from tunesmith.inference.failures import detail_of
from tunesmith.inference.paths.asking import Desk, Stopped, cancel, start_stream, tenant_of
from tunesmith.inference.paths.tool_calls import calls_in, may_be_call
from tunesmith.inference.prompts import chat_tokens, decoding_for, shaping_for
from tunesmith.inference.requests import Answer, Piece, Request, ScoredToken
from tunesmith.inference.token_texts import TokenTexts
from tunesmith.wire.chat import (
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    ErrorBody,
    Usage,
)
from tunesmith.wire.serving import STOPPED


def chat_router(catalog: ModelCatalog, desk: Desk) -> APIRouter:
    """The path, over the models of a catalog."""
    router = APIRouter()

    # Not async: reading a long prompt takes a while, and the loop goes on meanwhile.
    def request_of(body: ChatRequest, tenant: str) -> tuple[Request, TokenTexts]:
        model = catalog.require(body.model, "writes")
        with catalog.tokenizers.lock:
            tokenizer = catalog.tokenizer(model)
            prompt = chat_tokens(tokenizer, body)
            shaping = shaping_for(body, len(tokenizer))
        decoding = decoding_for(body, len(prompt), catalog.context(model))
        likeliest = (body.top_logprobs or 0) if body.logprobs else None
        tenant = tenant or model.name
        request = Request(model.name, prompt, decoding, body.n or 1, shaping, likeliest, tenant=tenant)
        return request, catalog.texts(model)

    @router.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, http: HttpRequest) -> Response:
        request, texts = await in_thread(request_of, body, tenant_of(http))
        if body.stream:
            return EventsResponse(_Stream(body, request, texts).events(start_stream(desk, [request])), [request])
        answers = await desk.answers([request], http)
        if isinstance(answers, Stopped):
            return stopped_answer(answers)
        return JSONResponse(_completion(body, request, answers[0], texts))

    return router


async def in_thread(work: Any, *arguments: Any) -> Any:
    """Run work beside the loop."""
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(work, *arguments)


def usage_of(prompt: int, written: int) -> Usage:
    """Token counts."""
    return Usage(prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written)


def stopped_answer(stopped: Stopped) -> Response:
    """What was used until work was stopped, for who still listens."""
    return JSONResponse({"usage": usage_of(stopped.read, stopped.written).model_dump()}, STOPPED)


class EventsResponse(StreamingResponse):
    """Streams events; whatever ends it ends the work for it, even before the first event was asked for."""

    def __init__(self, events: AsyncIterator[bytes], requests: Sequence[Request]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI asks."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            cancel(self._requests)


def event(data: bytes) -> bytes:
    """One event of a stream."""
    return b"data: " + data + b"\n\n"


def _completion(body: ChatRequest, request: Request, answers: Sequence[Answer], texts: TokenTexts) -> dict[str, Any]:
    choices = []
    for index, answer in enumerate(answers):
        calls = calls_in(answer.text, _offered(body), _schemas(body))
        message = AnswerMessage(content=None if calls else answer.text, tool_calls=calls or None)
        logprobs = _logprobs(answer.scored, texts) if request.likeliest is not None else None
        reason = "tool_calls" if calls else answer.finish_reason
        choices.append(Choice(index=index, message=message, logprobs=logprobs, finish_reason=reason))
    whole = ChatCompletion(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=body.model,
        choices=choices,
        usage=usage_of(len(request.prompt), sum(len(answer.token_ids) for answer in answers)),
    )
    data = whole.model_dump()
    for choice in data["choices"]:
        if not choice["message"]["tool_calls"]:
            del choice["message"]["tool_calls"]
    return data


def _offered(body: ChatRequest) -> frozenset[str]:
    """The functions that may be called."""
    if body.tool_choice == "none":
        return frozenset()
    return frozenset(tool.function.name for tool in body.tools or [])


def _schemas(body: ChatRequest) -> dict[str, dict[str, Any] | None]:
    """The parameters of the functions on offer."""
    return {tool.function.name: tool.function.parameters for tool in body.tools or []}


def _logprobs(scored: Sequence[ScoredToken], texts: TokenTexts) -> ChatLogprobs:
    return ChatLogprobs(content=[texts.chosen(one) for one in scored])


class _Stream:
    """Chunks of one streamed request."""

    def __init__(self, body: ChatRequest, request: Request, texts: TokenTexts) -> None:
        self._body = body
        self._request = request
        self._texts = texts
        self._offered = _offered(body)
        self._common: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.model,
        }
        self._counts_always = body.stream_options is not None and body.stream_options.continuous_usage_stats
        self._written = 0
        self._said = [""] * request.answers
        self._held = [""] * request.answers

    async def events(self, pieces: AsyncIterator[tuple[int, Piece]]) -> AsyncIterator[bytes]:
        """The events, errors among them."""
        for index in range(self._request.answers):
            yield self._chunk(ChunkChoice(index=index, delta=Delta(role="assistant", content="")))
        try:
            async for _, piece in pieces:
                for choice in self._choices(piece):
                    yield self._chunk(choice)
        except Exception as error:
            yield event(ErrorBody(error=detail_of(error)).model_dump_json().encode())
            return
        if self._body.stream_options is not None and self._body.stream_options.include_usage:
            yield self._dumped(ChatChunk(**self._common, choices=[], usage=self._usage()))
        yield event(b"[DONE]")

    def _choices(self, piece: Piece) -> list[ChunkChoice]:
        index = piece.index
        self._written += piece.finish_reason is None
        self._said[index] += piece.text
        text = self._held[index] + piece.text
        if piece.finish_reason is None and self._offered and may_be_call(self._said[index], self._offered):
            self._held[index] = text
            text = ""
        else:
            self._held[index] = ""
        calls = (
            calls_in(self._said[index], self._offered, _schemas(self._body)) if piece.finish_reason is not None else []
        )
        logprobs = _logprobs([piece.scored], self._texts) if piece.scored is not None else None
        found = []
        if calls:
            numbered = [call.model_copy(update={"index": at}) for at, call in enumerate(calls)]
            found.append(ChunkChoice(index=index, delta=Delta(tool_calls=numbered)))
        elif text or logprobs is not None:
            found.append(ChunkChoice(index=index, delta=Delta(content=text), logprobs=logprobs))
        if piece.finish_reason is not None:
            reason = "tool_calls" if calls else piece.finish_reason
            found.append(ChunkChoice(index=index, delta=Delta(), finish_reason=reason))
        return found

    def _usage(self) -> Usage:
        return usage_of(len(self._request.prompt), self._written)

    def _chunk(self, choice: ChunkChoice) -> bytes:
        usage = self._usage() if self._counts_always else None
        return self._dumped(ChatChunk(**self._common, choices=[choice], usage=usage))

    def _dumped(self, chunk: ChatChunk) -> bytes:
        data = chunk.model_dump()
        for choice in data["choices"]:
            choice["delta"] = {key: value for key, value in choice["delta"].items() if value is not None}
        return event(orjson.dumps(data))
