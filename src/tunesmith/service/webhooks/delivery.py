"""Bringing events to webhooks: signed as Standard Webhooks says, again and again until somebody takes them.

An event may arrive twice, under one ``webhook-id``: a process that is killed between sending and noting it sends again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import Row, select, update

from tunesmith.service.context import Context
from tunesmith.service.db.tables.keeping import DELIVERIES, WEBHOOKS
from tunesmith.service.errors import ApiError
from tunesmith.service.webhooks.addresses import Resolve, target_of
from tunesmith.service.webhooks.webhooks import SECRET_PREFIX

# Between one try and the next; behind the last the service gives up. About three days in all.
WAITS_SECONDS = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0, 86_400.0)
# All of a try, however slowly the other one speaks.
TRY_SECONDS = 15.0
# How long one that is being sent is nobody else's.
_HOLD_SECONDS = 60.0
_AT_ONCE = 16
_GONE = 410


@dataclass(frozen=True)
class _Outcome:
    is_delivered: bool
    answer: str
    is_gone: bool = False


def deliver_due(context: Context, resolve: Resolve | None = None) -> None:
    """Send what is due, some at once; what comes of each is noted.

    Args:
        context: The service.
        resolve: Looks names up; the system's own way, unless tests have another.
    """
    due = _claim(context)
    if not due:
        return
    outcomes = asyncio.run(_send_all(context, due, resolve or _system_addresses))
    for row, outcome in zip(due, outcomes, strict=True):
        _note(context, row, outcome)


def signature(secret: str, name: str, moment: int, body: bytes) -> str:
    """The signature of an event, as the receiver's own library checks it."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    made = hmac.new(key, f"{name}.{moment}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(made).decode()}"


def _claim(context: Context) -> Sequence[Row[Any]]:
    now = context.now()
    due = (
        select(DELIVERIES, WEBHOOKS.c.url, WEBHOOKS.c.secret)
        .join(WEBHOOKS, WEBHOOKS.c.id == DELIVERIES.c.webhook_id)
        .where(DELIVERIES.c.state == "waiting", DELIVERIES.c.next_at <= now, WEBHOOKS.c.enabled)
        .order_by(DELIVERIES.c.next_at)
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True, of=DELIVERIES)
    )
    with context.database.write() as connection:
        rows = connection.execute(due).all()
        held = {"tries": DELIVERIES.c.tries + 1, "next_at": now + _HOLD_SECONDS}
        connection.execute(update(DELIVERIES).where(DELIVERIES.c.id.in_([row.id for row in rows])).values(**held))
    return rows


async def _send_all(context: Context, due: Sequence[Row[Any]], resolve: Resolve) -> list[_Outcome]:
    # No proxy of the environment: it would look the name up once more.
    async with httpx.AsyncClient(follow_redirects=False, trust_env=False) as client:
        return list(await asyncio.gather(*(_send(context, client, row, resolve) for row in due)))


async def _send(context: Context, client: httpx.AsyncClient, row: Row[Any], resolve: Resolve) -> _Outcome:
    try:
        async with asyncio.timeout(TRY_SECONDS):
            target = await asyncio.to_thread(target_of, context.settings, row.url, resolve)
            body = json.dumps(row.payload, separators=(",", ":")).encode()
            moment = int(context.now())
            headers = {
                "Host": target.host,
                "Content-Type": "application/json",
                "User-Agent": "Tunesmith-Webhooks/1",
                "webhook-id": row.id,
                "webhook-timestamp": str(moment),
                "webhook-signature": signature(row.secret, row.id, moment, body),
            }
            request = client.build_request("POST", target.url, content=body, headers=headers, timeout=TRY_SECONDS)
            request.extensions["sni_hostname"] = target.sni
            answer = await client.send(request, stream=True)
            # What it says besides is nobody's business, and may be without end.
            await answer.aclose()
    except ApiError as error:
        return _Outcome(False, str(error)[:255])
    except TimeoutError:
        return _Outcome(False, f"no answer within {TRY_SECONDS:g} s")
    except (httpx.HTTPError, OSError, ValueError) as error:
        # Words of the system could tell a project what is inside this network.
        return _Outcome(False, f"not reached: {type(error).__name__}")
    return _Outcome(answer.is_success, f"status {answer.status_code}", answer.status_code == _GONE)


def _note(context: Context, row: Row[Any], outcome: _Outcome) -> None:
    tries, now = row.tries + 1, context.now()
    values: dict[str, Any] = {"answer": outcome.answer, "state": "waiting"}
    if outcome.is_delivered:
        values["state"] = "delivered"
    elif outcome.is_gone or tries > len(WAITS_SECONDS):
        values["state"] = "given_up"
    else:
        values["next_at"] = now + WAITS_SECONDS[tries - 1]
    with context.database.write() as connection:
        # Unless another process has taken it up meanwhile.
        mine = (DELIVERIES.c.id == row.id) & (DELIVERIES.c.tries == tries) & (DELIVERIES.c.state == "waiting")
        connection.execute(update(DELIVERIES).where(mine).values(**values))
        if outcome.is_gone:
            connection.execute(update(WEBHOOKS).where(WEBHOOKS.c.id == row.webhook_id).values(enabled=False))


def _system_addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]
