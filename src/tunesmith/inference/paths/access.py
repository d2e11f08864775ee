"""Who may ask: bearers of a key, and nobody for more than a body of bounded size."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.inference.failures import error_answer
from tunesmith.wire.chat import ErrorDetail
from tunesmith.wire.serving import SERVICE_KEY, TENANT_HEADER

# Probes and load balancers have no key.
OPEN_PATHS = frozenset({"/health", "/ready"})
_MOST_BODY_BYTES = 32 * 2**20


def guarded(app: ASGIApp, keys: Mapping[str, str]) -> ASGIApp:
    """Let only bearers of one of the keys in; other users of a machine reach its loopback address too.

    Args:
        app: What is guarded.
        keys: The secrets, by the name of whom each is for, which later stands in the scope as
            ``tunesmith.tenant``. Without any, everybody is let in. Whoever has the key of the name ``service`` asks
            for many others: the header ``x-tunesmith-tenant`` says for whom, and counts from nobody else.
    """
    expected = [(name, f"Bearer {key}".encode()) for name, key in keys.items()]

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        if expected and scope["path"] not in OPEN_PATHS:
            given = dict(scope["headers"]).get(b"authorization", b"")
            # Every key is compared, so that the time says nothing about which.
            found = [name for name, key in expected if hmac.compare_digest(given, key)]
            if not found:
                detail = ErrorDetail(
                    message="Incorrect API key provided", type="authentication_error", code="invalid_api_key"
                )
                await error_answer(401, detail)(scope, receive, send)
                return
            told = _told_tenant(scope) if found[0] == SERVICE_KEY else ""
            scope = {**scope, "tunesmith.tenant": told or (found[0] if len(expected) > 1 else "")}
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > _MOST_BODY_BYTES:
            await _too_large()(scope, receive, send)
            return
        await app(scope, _bounded(receive), send)

    return guard


def _told_tenant(scope: Scope) -> str:
    """For whom a service asks; empty where it does not say."""
    told: bytes = dict(scope["headers"]).get(TENANT_HEADER.encode(), b"")
    return told.decode("latin-1")


def _bounded(receive: Receive) -> Receive:
    """The same, ended as if the client had gone once more has come than was announced or is taken."""
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > _MOST_BODY_BYTES:
                return {"type": "http.disconnect"}
        return message

    return bounded


def _too_large() -> ASGIApp:
    return error_answer(
        413,
        ErrorDetail(
            message=f"the body is larger than {_MOST_BODY_BYTES // 2**20} MiB",
            type="invalid_request_error",
            code="body_too_large",
        ),
    )
