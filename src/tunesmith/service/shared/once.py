"""Requests that make something, and may come twice: what is made is made once.

A client that wants to be sure sends ``Idempotency-Key``. OpenAI's own clients send none, and try again by themselves
when an answer is lost, so that a job would be made twice; but they count their tries in a header. So every answer is
kept for a while under who asked, where and what, and a try that is not the first gets the first one's answer. A first
try is always a new request: who asks twice for the same may want it twice.

An answer is kept in the transaction that makes the thing, so that a process which is killed has either made it and can
tell so, or has made nothing. A deployment's is kept right after it: its name keeps it from being made twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse
from sqlalchemy import Connection, Row, and_, delete, or_, select, update

from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.keeping import REQUESTS
from tunesmith.service.errors import ApiError
from tunesmith.service.ids import new_id

KEY_HEADER = "idempotency-key"
TRIES_HEADER = "x-stainless-retry-count"
REPLAYED_HEADER = "idempotency-replayed"
_MOST_LETTERS = 255
_KEYED_SECONDS = 24 * 3600.0
_TRIED_SECONDS = 15 * 60.0
# A process that was killed leaves its request under way; nobody waits longer for it.
_UNDER_WAY_SECONDS = 10 * 60.0
_DAY_SECONDS = 86_400.0
_WAIT_SECONDS = 5
_MADE = 200
Keep = Callable[[Connection, dict[str, Any]], None]


def once(  # noqa: PLR0917  (what every creating route hands over, in this order)
    context: Context,
    caller: Caller,
    headers: Mapping[str, str],
    path: str,
    body: bytes | Mapping[str, Any],
    do: Callable[[Keep], dict[str, Any]],
) -> JSONResponse:
    """Answer a request that makes something; its repetition gets the same answer and makes nothing.

    Args:
        context: The service.
        caller: Who asks; nobody gets an answer of somebody else.
        headers: Of the request, by names in any case of letters that the mapping allows.
        path: Of the request.
        body: What was asked, as bytes or as plain JSON.
        do: Makes the thing; returns the body of the answer. It gets a function that keeps this body within the
            transaction that writes the thing. What it raises is forgotten: nothing was made, and another try may do
            better.

    Raises:
        ApiError: 409 ``request_under_way``: the first one has no answer yet; 422 ``idempotency_key_reused``: the key
            came with another body before; 400: the key is no key.
    """
    asked = _asked(context, caller, headers, path, body)
    known = _begin(context, asked)
    if known is not None:
        return JSONResponse(known.answer, known.status, {REPLAYED_HEADER: "true"})
    try:
        answer = do(lambda connection, answer: _keep(context, connection, asked, answer))
    except BaseException:
        _forget(context, asked)
        raise
    return JSONResponse(answer, _MADE)


def forget_old_answers(context: Context) -> None:
    """Remove answers that nobody may ask for any more, and requests that cannot be under way any more.

    One that takes longer than others wait for it still finds its place, unless another try has taken that.
    """
    now = context.now()
    over = and_(REQUESTS.c.expires_at <= now, REQUESTS.c.status.is_not(None))
    given_up = REQUESTS.c.expires_at <= now - _DAY_SECONDS
    with context.database.write() as connection:
        connection.execute(delete(REQUESTS).where(or_(over, given_up)))


@dataclass(frozen=True)
class _Asked:
    """A request: its row while it is under way, whether it is new whatever came before, how long its answer is kept."""

    row: dict[str, Any]
    is_new: bool
    kept_seconds: float


def _asked(
    context: Context, caller: Caller, headers: Mapping[str, str], path: str, body: bytes | Mapping[str, Any]
) -> _Asked:
    content = body if isinstance(body, bytes) else json.dumps(body, sort_keys=True).encode()
    body_hash = hashlib.sha256(path.encode() + b"\0" + content).hexdigest()
    given = headers.get(KEY_HEADER)
    if given is not None and not 0 < len(given) <= _MOST_LETTERS:
        raise ApiError(
            400,
            f"Idempotency-Key must have 1 to {_MOST_LETTERS} characters",
            code="invalid_value",
            param="Idempotency-Key",
        )
    named = ("tried", caller.name, body_hash) if given is None else ("keyed", caller.name, given)
    row = {
        "id": new_id("once_"),
        "project_id": caller.project_id,
        "key": hashlib.sha256("\0".join(named).encode()).hexdigest(),
        "body": body_hash,
        "status": None,
        "answer": None,
        "created_at": context.now(),
        "expires_at": context.now() + _UNDER_WAY_SECONDS,
    }
    is_first = not _is_retry(headers.get(TRIES_HEADER, ""))
    return _Asked(row, given is None and is_first, _TRIED_SECONDS if given is None else _KEYED_SECONDS)


def _is_retry(tries: str) -> bool:
    return tries.isascii() and tries.isdigit() and int(tries[:9]) > 0


def _begin(context: Context, asked: _Asked) -> Row[Any] | None:
    """Take the request's place; the answer that is known already, or None where it is ours to make."""
    with context.database.write() as connection:
        row = asked.row
        if asked.is_new:
            context.database.upsert(connection, REQUESTS, row, ["project_id", "key"], row)
            return None
        context.database.upsert(connection, REQUESTS, row, ["project_id", "key"])
        known = _find(connection, row)
        if known.id == row["id"]:
            return None
        if known.expires_at <= row["created_at"]:
            connection.execute(update(REQUESTS).where(REQUESTS.c.id == known.id).values(**row))
            return None
    if known.body != row["body"]:
        raise ApiError(
            422,
            "This Idempotency-Key came with another request before; use a new key for a new request",
            code="idempotency_key_reused",
            param="Idempotency-Key",
        )
    if known.status is None:
        raise _under_way()
    return known


def _under_way() -> ApiError:
    return ApiError(
        409,
        "The same request is under way; its answer can be asked for in a moment",
        code="request_under_way",
        headers={"Retry-After": str(_WAIT_SECONDS)},
        retry=True,
    )


def _find(connection: Connection, row: Mapping[str, Any]) -> Row[Any]:
    where = (REQUESTS.c.project_id == row["project_id"], REQUESTS.c.key == row["key"])
    return connection.execute(select(REQUESTS).where(*where).with_for_update()).one()


def _keep(context: Context, connection: Connection, asked: _Asked, answer: dict[str, Any]) -> None:
    values = {"status": _MADE, "answer": answer, "expires_at": context.now() + asked.kept_seconds}
    kept = connection.execute(update(REQUESTS).where(REQUESTS.c.id == asked.row["id"]).values(**values))
    # Of two first tries without a key each is to make its own; the later one has the place.
    if kept.rowcount == 0 and not asked.is_new:
        # It took so long that another try has begun instead.
        raise _under_way()


def _forget(context: Context, asked: _Asked) -> None:
    with context.database.write() as connection:
        # What was made before the error is there, and so is its answer.
        mine = (REQUESTS.c.id == asked.row["id"]) & REQUESTS.c.status.is_(None)
        connection.execute(delete(REQUESTS).where(mine))
