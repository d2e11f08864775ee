"""What happens to every request before and after its route: a name, a bounded body, headers that keep browsers safe."""

from __future__ import annotations

import logging
import time

from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.service.context import Context
from tunesmith.service.errors import error_answer, one_line
from tunesmith.service.ids import new_id
from tunesmith.service.texts import has_zero_byte
from tunesmith.wire.chat import ErrorDetail

_log = logging.getLogger("tunesmith.service.access")
# Files have limits of their own, which are kept while they stream in.
_STREAMED = ("/files", "/parts")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        b"frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    ),
)


def edge(app: FastAPI, context: Context) -> None:
    """Put the edge around an application."""
    app.add_middleware(
        _Edge, most_body_bytes=context.settings.limits.body_bytes, secure=context.settings.secure_cookies
    )


class _Edge:
    def __init__(self, app: ASGIApp, most_body_bytes: int, secure: bool) -> None:
        self._app = app
        self._most_body_bytes = most_body_bytes
        strict = ((b"strict-transport-security", b"max-age=31536000"),) if secure else ()
        self._headers = _HEADERS + strict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name, started = new_id("req_"), time.perf_counter()
        scope.setdefault("state", {})["request_id"] = name
        status: int | None = None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # What the gate has to say, whatever becomes of the request.
                told = scope["state"].get("answer_headers", ())
                message = {**message, "headers": [*message["headers"], *told, *self._own(message, name)]}
            await send(message)

        if self._is_too_large(scope):
            await self._too_large(scope, receive, answer)
        elif has_zero_byte(scope):
            detail = ErrorDetail(
                message="no name and no value has a zero byte", type="invalid_request_error", code="invalid_value"
            )
            await error_answer(400, detail)(scope, receive, answer)
        else:
            bounded = _Bounded(receive, None if _is_streamed(scope) else self._most_body_bytes)

            async def answer_of_route(message: Message) -> None:
                # A route that never saw the end of its body has only wrong words for that.
                if not bounded.is_exceeded or status is not None:
                    await answer(message)

            try:
                await self._app(scope, bounded, answer_of_route)
            except ClientDisconnect:
                if not bounded.is_exceeded:
                    raise
            if bounded.is_exceeded and status is None:
                await self._too_large(scope, receive, answer)
        # The query may hold what is nobody's business.
        seconds = time.perf_counter() - started
        _log.info("%s %s %s %d %.3fs", name, scope["method"], one_line(scope["path"]), status or 500, seconds)

    async def _too_large(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = ErrorDetail(
            message=f"the body is larger than {self._most_body_bytes} bytes",
            type="invalid_request_error",
            code="body_too_large",
        )
        await error_answer(413, detail)(scope, receive, send)

    def _own(self, message: Message, name: str) -> list[tuple[bytes, bytes]]:
        given = {key.lower() for key, _ in message["headers"]}
        own = [(key, value) for key, value in self._headers if key not in given]
        return [*own, (b"x-request-id", name.encode())]

    def _is_too_large(self, scope: Scope) -> bool:
        if _is_streamed(scope):
            return False
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        return not announced.isdigit() or int(announced) > self._most_body_bytes


class _Bounded:
    """A body, ended as if the client had gone once more has come than is taken; ``is_exceeded`` says so."""

    def __init__(self, receive: Receive, most_bytes: int | None) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._taken_bytes = 0
        self.is_exceeded = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and self._most_bytes is not None:
            self._taken_bytes += len(message.get("body", b""))
            self.is_exceeded = self._taken_bytes > self._most_bytes
            if self.is_exceeded:
                return {"type": "http.disconnect"}
        return message


def _is_streamed(scope: Scope) -> bool:
    path: str = scope["path"]
    return scope["method"] == "POST" and path.endswith(_STREAMED)
