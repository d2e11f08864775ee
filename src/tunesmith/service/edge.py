"""What happens to every request before and after its route: a name, a bounded body, headers that keep browsers safe."""

from __future__ import annotations

import logging
import time

from fastapi import FastAPI
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
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # What the gate has to say, whatever becomes of the request.
                told = scope["state"].get("answer_headers", ())
                message = {**message, "headers": [*message["headers"], *told, *self._own(message, name)]}
            await send(message)

        if self._is_too_large(scope):
            detail = ErrorDetail(
                message=f"the body is larger than {self._most_body_bytes} bytes",
                type="invalid_request_error",
                code="body_too_large",
            )
            await error_answer(413, detail)(scope, receive, answer)
        elif has_zero_byte(scope):
            detail = ErrorDetail(
                message="no name and no value has a zero byte", type="invalid_request_error", code="invalid_value"
            )
            await error_answer(400, detail)(scope, receive, answer)
        else:
            await self._app(scope, self._bounded(scope, receive), answer)
        # The query may hold what is nobody's business.
        seconds = time.perf_counter() - started
        _log.info("%s %s %s %d %.3fs", name, scope["method"], one_line(scope["path"]), status, seconds)

    def _own(self, message: Message, name: str) -> list[tuple[bytes, bytes]]:
        given = {key.lower() for key, _ in message["headers"]}
        own = [(key, value) for key, value in self._headers if key not in given]
        return [*own, (b"x-request-id", name.encode())]

    def _is_too_large(self, scope: Scope) -> bool:
        if _is_streamed(scope):
            return False
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        return not announced.isdigit() or int(announced) > self._most_body_bytes

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """The same body, ended as if the client had gone once more has come than is taken."""
        if _is_streamed(scope):
            return receive
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self._most_body_bytes:
                    return {"type": "http.disconnect"}
            return message

        return bounded


def _is_streamed(scope: Scope) -> bool:
    path: str = scope["path"]
    return scope["method"] == "POST" and path.endswith(_STREAMED)
