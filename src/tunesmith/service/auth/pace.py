"""Limits of requests and tokens a minute, told in OpenAI's headers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fastapi import Request
from sqlalchemy import select

from tunesmith.service.auth.caller import Caller
from tunesmith.service.auth.rates import Allowance
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.errors import ApiError


def pace_requests(context: Context, request: Request, caller: Caller) -> None:
    """Count a request for its key (or person) and its project.

    Raises:
        ApiError: 429 ``rate_limit_exceeded``.
    """
    who = caller.key_id or caller.user_id or caller.name
    limits = {f"{who} requests": context.settings.limits.requests_per_minute}
    of_project, _ = _limits(context, caller.project_id)
    if of_project is not None:
        limits[f"{caller.project_id} requests"] = of_project
    found = context.rates.take(context.database, context.now(), limits)
    tightest = _tightest(found)
    headers = _headers(tightest, "requests")
    if not tightest.is_granted:
        raise _too_many(tightest, "requests", headers)
    request.state.answer_headers = [(name.encode(), value.encode()) for name, value in headers.items()]


def require_tokens(context: Context, caller: Caller, coming: int = 0) -> dict[str, str]:
    """Refuse a request that goes beyond the tokens that its project may use in a minute.

    Args:
        context: The service.
        caller: Who asks.
        coming: Tokens that the request is known to take, such as those of its prompt; they are not counted here.

    Returns:
        Headers that tell what is left; none where there is no limit.

    Raises:
        ApiError: 429 ``rate_limit_exceeded``.
    """
    limit = _tokens_per_minute(context, caller.project_id)
    if limit is None:
        return {}
    subject = f"{caller.project_id} tokens"
    # More at once than a whole minute allows would never get through: it waits until nothing counts.
    looked = context.rates.look(context.database, context.now(), subject, limit, min(max(coming, 1), limit))
    headers = _headers(looked, "tokens")
    if not looked.is_granted:
        raise _too_many(looked, "tokens", headers)
    return headers


def count_tokens(context: Context, caller: Caller, quantity: int) -> None:
    """Count tokens that a request has taken, in and out, once they are known."""
    if quantity > 0 and _tokens_per_minute(context, caller.project_id) is not None:
        context.rates.count(context.now(), f"{caller.project_id} tokens", quantity)


def require_few_failures(context: Context, client: str | None) -> None:
    """Refuse an address from which too many keys came that were not good.

    Raises:
        ApiError: 429 ``rate_limit_exceeded``.
    """
    limit = context.settings.limits.failures_per_minute
    looked = context.rates.look(context.database, context.now(), _failures(client), limit, 1)
    if not looked.is_granted:
        raise _too_many(looked, "failed sign-ins", {})


def count_failure(context: Context, client: str | None) -> None:
    """Count a key or a sign-in that was not good."""
    context.rates.count(context.now(), _failures(client))


def pace_sign_ins(context: Context, client: str | None) -> None:
    """Count a way to the provider that an address begins: each costs a row and a question to the provider.

    Raises:
        ApiError: 429 ``rate_limit_exceeded``.
    """
    require_few_failures(context, client)
    limits = {f"{client} sign-ins": context.settings.limits.failures_per_minute}
    (found,) = context.rates.take(context.database, context.now(), limits).values()
    if not found.is_granted:
        raise _too_many(found, "sign-ins", {})


def _failures(client: str | None) -> str:
    return f"{client} failures"


def _tokens_per_minute(context: Context, project_id: str) -> int | None:
    _, of_project = _limits(context, project_id)
    return context.settings.limits.tokens_per_minute if of_project is None else of_project


def _limits(context: Context, project_id: str) -> tuple[int | None, int | None]:
    now = context.now()
    known = context.rates.remembered_limits(project_id, now)
    if known is not None:
        return known
    query = select(PROJECTS.c.requests_per_minute, PROJECTS.c.tokens_per_minute).where(PROJECTS.c.id == project_id)
    with context.database.read() as connection:
        row = connection.execute(query).first()
    found = (None, None) if row is None else (row.requests_per_minute, row.tokens_per_minute)
    context.rates.remember_limits(project_id, now, found)
    return found


def _tightest(found: Mapping[str, Allowance]) -> Allowance:
    return min(found.values(), key=lambda one: (-one.wait_seconds, one.remaining))


def _headers(one: Allowance, what: str) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(one.limit),
        f"x-ratelimit-remaining-{what}": str(one.remaining),
        f"x-ratelimit-reset-{what}": f"{one.reset_seconds:.1f}s",
    }


def _too_many(one: Allowance, what: str, headers: Mapping[str, str]) -> ApiError:
    wait = max(1, math.ceil(one.wait_seconds))
    return ApiError(
        429,
        f"The limit of {one.limit} {what} a minute is reached; try again in {wait} s",
        code="rate_limit_exceeded",
        headers={**headers, "retry-after": str(wait)},
        retry=True,
    )
