"""To an engine and back: the body, whole or piece by piece, with the names that the asker knows."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import anyio
import httpx
import orjson
from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from tunesmith.service.chat.schema import Question
from tunesmith.service.chat.service import Used
from tunesmith.service.context import Context
from tunesmith.service.errors import ApiError
from tunesmith.service.shared.choosing import Chosen
from tunesmith.service.shared.engines import TOUCH_SECONDS, Engine, Place, await_engine, touch
from tunesmith.wire.chat import ErrorBody, ErrorDetail
from tunesmith.wire.serving import REQUEST_HEADER, STOP_PATH, STOPPED, TENANT_HEADER

# Says which model of a deployment has answered.
MODEL_HEADER = "x-tunesmith-model"
_SILENCE_SECONDS = 600.0
_DISCONNECT_POLL_SECONDS = 0.2
# An engine that was told to stop tells what it has used; whoever waits longer for that waits for nothing.
_STOPPING_SECONDS = 10.0
# Engines are asked without TLS; making a context for each client would take longer than the request does.
_NO_TLS = ssl.create_default_context()
Count = Callable[[Used], Awaitable[None]]


class Relay:
    """One question on its way.

    Args:
        context: The service.
        question: What is asked.
        chosen: Who answers.
        place: Where.
        count: Writes down what was used.
        project_id: For whom the engine is asked: projects are served in turn.
        headers: More headers of the answer.
    """

    def __init__(
        self,
        context: Context,
        question: Question,
        chosen: Chosen,
        place: Place,
        count: Count,
        *,
        project_id: str,
        headers: Mapping[str, str],
    ) -> None:
        self._context = context
        self._question = question
        self._chosen = chosen
        self._place = place
        self._count = count
        self._used = Used()
        self._touched = context.now()
        self._project_id = project_id
        self._headers = {**headers, MODEL_HEADER: chosen.named.name}
        self._name = secrets.token_hex(16)
        self._engine: Engine | None = None

    async def answer(self, request: Request) -> Response:
        """The answer; one that is streamed has only begun.

        Raises:
            ApiError: 503: no engine, or it did not answer.
        """
        client = _client()
        try:
            upstream = await self._until_gone(request, client)
        except BaseException:
            await client.aclose()
            raise
        if upstream is None:
            await client.aclose()
            return Response(status_code=STOPPED)
        if self._question.streams and upstream.status_code == httpx.codes.OK:
            return _Events(self._events(upstream), lambda: self._end(client, upstream), self._headers)
        try:
            await upstream.aread()
        except httpx.TransportError as error:
            raise _no_answer(self._chosen) from error
        finally:
            await _close(client, upstream)
        return await self._whole(upstream)

    async def _sent(self, client: httpx.AsyncClient) -> httpx.Response:
        """Ask; an engine that died since it was last seen is waited for once, since it has read nothing."""
        wait = self._context.settings.engine_wait_seconds
        engine = await await_engine(self._context, self._place.base, wait)
        try:
            return await self._asked(client, engine)
        except (httpx.ConnectError, _StrangerError):
            engine = await await_engine(self._context, self._place.base, wait, lost=engine)
        except httpx.TransportError as error:
            raise _no_answer(self._chosen) from error
        try:
            return await self._asked(client, engine)
        except (httpx.TransportError, _StrangerError) as error:
            raise _no_answer(self._chosen) from error

    async def _asked(self, client: httpx.AsyncClient, engine: Engine) -> httpx.Response:
        self._engine = engine
        request = client.build_request(
            "POST",
            engine.address + self._question.path,
            content=orjson.dumps(self._question.for_engine(self._place.model)),
            headers={"Content-Type": "application/json", REQUEST_HEADER: self._name, **self._known(engine)},
        )
        answer = await client.send(request, stream=True)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            await answer.aclose()
            raise _StrangerError
        return answer

    def _known(self, engine: Engine) -> dict[str, str]:
        """Headers by which an engine knows who asks."""
        return {"Authorization": f"Bearer {engine.token}", TENANT_HEADER: self._project_id}

    async def _until_gone(self, request: Request, client: httpx.AsyncClient) -> httpx.Response | None:
        """What comes of asking; when the client goes away first, what was used until then, or None for nothing."""
        task = asyncio.ensure_future(self._sent(client))
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_DISCONNECT_POLL_SECONDS)
                await self._keep_awake()
                if not task.done() and await request.is_disconnected():
                    return await self._stopped(client, task)
            return task.result()
        finally:
            task.cancel()

    async def _stopped(self, client: httpx.AsyncClient, task: asyncio.Task[httpx.Response]) -> httpx.Response | None:
        """The last word of an engine that was told to stop; vectors and labels are made anyway, and come whole."""
        if self._engine is None or self._question.streams:
            return None
        end = time.monotonic() + (_STOPPING_SECONDS if self._question.writes else _SILENCE_SECONDS)
        while not task.done() and time.monotonic() < end:
            if self._question.writes:
                # The engine may not know of it yet: long prompts take a while to be read.
                with contextlib.suppress(httpx.TransportError):
                    await client.delete(
                        f"{self._engine.address}{STOP_PATH}/{self._name}", headers=self._known(self._engine)
                    )
            await asyncio.wait({task}, timeout=_DISCONNECT_POLL_SECONDS)
        return task.result() if task.done() else None

    async def _keep_awake(self) -> None:
        """An answer may take longer than engines stay unused."""
        if self._context.now() - self._touched > TOUCH_SECONDS:
            self._touched = self._context.now()
            await run_in_threadpool(touch, self._context, self._place.base)

    async def _whole(self, upstream: httpx.Response) -> Response:
        try:
            body = orjson.loads(upstream.content)
        except orjson.JSONDecodeError as error:
            raise _no_answer(self._chosen) from error
        if upstream.status_code == STOPPED:
            self._used.note(body.get("usage"))
            await self._count(self._used)
            return Response(status_code=STOPPED)
        if upstream.status_code != httpx.codes.OK:
            return JSONResponse(self._own_words(body), upstream.status_code, headers=self._kept(upstream))
        self._used.note(body.get("usage"))
        await self._count(self._used)
        return JSONResponse({**body, "model": self._chosen.asked}, headers=self._headers)

    async def _events(self, upstream: httpx.Response) -> AsyncIterator[bytes]:
        """The engine's events; one that breaks off ends with an error, which clients raise."""
        ended = False
        try:
            async for line in upstream.aiter_lines():
                data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                if not data:
                    continue
                ended = ended or data == "[DONE]"
                event = data.encode() if data == "[DONE]" else self._event(orjson.loads(data))
                if event is not None:
                    yield b"data: " + event + b"\n\n"
                await self._keep_awake()
        except httpx.TransportError:
            ended = False
        if not ended:
            yield b"data: " + ErrorBody(error=_no_answer(self._chosen).detail).model_dump_json().encode() + b"\n\n"

    def _event(self, chunk: dict[str, Any]) -> bytes | None:
        """A chunk as the client gets it; None for token counts that it did not ask for."""
        if "error" in chunk:
            return orjson.dumps(self._own_words(chunk))
        self._used.note(chunk.get("usage"))
        is_last = not chunk.get("choices")
        if is_last and not self._question.wants_usage:
            return None
        usage = {"usage": chunk.get("usage") if is_last else None} if self._question.wants_usage else {}
        return orjson.dumps(
            {key: value for key, value in chunk.items() if key != "usage"} | {"model": self._chosen.asked} | usage
        )

    async def _end(self, client: httpx.AsyncClient, upstream: httpx.Response) -> None:
        """Whatever ended the stream: the engine stops, and what it has written is counted."""
        await _close(client, upstream)
        await self._count(self._used)

    def _own_words(self, body: Any) -> dict[str, Any]:
        """An error without the engine's name of the model."""
        detail = body.get("error") if isinstance(body, dict) else None
        if not isinstance(detail, dict):
            return ErrorBody(error=ErrorDetail(message="the engine failed", type="server_error")).model_dump()
        message = str(detail.get("message")).replace(self._place.model, self._chosen.asked)
        known = {key: detail.get(key) for key in ("type", "param", "code")}
        return {"error": {"message": message, **known}}

    def _kept(self, upstream: httpx.Response) -> dict[str, str]:
        again = upstream.headers.get("retry-after")
        return self._headers if again is None else {**self._headers, "Retry-After": again}


class _StrangerError(Exception):
    """Another process has got the address of an engine that died: it does not know the engine's key."""


class _Events(StreamingResponse):
    """Streams events; whatever ends it, ``end`` is called, also when the client went before the first one."""

    def __init__(
        self, events: AsyncIterator[bytes], end: Callable[[], Awaitable[None]], headers: dict[str, str]
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", **headers})
        self._events = events
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI asks."""
        try:
            async with aclosing(self._events):  # type: ignore[type-var]
                await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end()


def _client() -> httpx.AsyncClient:
    """Of one request: its connection is closed with it, which is how an engine learns that nobody listens."""
    timeout = httpx.Timeout(_SILENCE_SECONDS, connect=5.0)
    return httpx.AsyncClient(timeout=timeout, trust_env=False, verify=_NO_TLS)


async def _close(client: httpx.AsyncClient, upstream: httpx.Response) -> None:
    with anyio.CancelScope(shield=True):
        await upstream.aclose()
        await client.aclose()


def _no_answer(chosen: Chosen) -> ApiError:
    return ApiError(
        503,
        f"The engine of the model `{chosen.asked}` did not answer to the end; try again",
        code="engine_unavailable",
        headers={"Retry-After": "1"},
        retry=True,
    )
