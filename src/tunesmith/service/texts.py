"""Texts that come in can be kept and told again: none has a zero byte or half of a letter.

JSON can spell both. PostgreSQL keeps no zero byte, and half of a letter (a surrogate without its other half) can be
kept by some databases and written by no answer: one such text in a row, and no list with that row is ever told again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import Request
from starlette.types import Scope

from tunesmith.service.errors import ApiError

_ZERO = "\x00"


async def require_texts(request: Request) -> None:
    """A dependency of every route: refuse a JSON body, as far as a route has it read, with such a text.

    Raises:
        ApiError: 400 ``invalid_value`` with the parameter.
    """
    if getattr(request.scope.get("route"), "body_field", None) is None:
        return
    try:
        # It was read for the route already, and is not read twice.
        body = await request.json()
    except ValueError:
        # Nothing, or no JSON: the route has its own words for that.
        return
    for place in _unfit(body):
        raise ApiError(
            400,
            f"Invalid value for '{place}': a text has no zero bytes and no halves of letters (lone surrogates)",
            code="invalid_value",
            param=place,
        )


def has_zero_byte(scope: Scope) -> bool:
    """Whether a request's path or query names something with a zero byte, which no name has."""
    return _ZERO in scope["path"] or b"%00" in scope["query_string"]


def _unfit(body: Any) -> Iterator[str]:
    """Places of texts that are unfit. Not recursive: a body may be nested deeply."""
    waiting = [("", body)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str):
            if not _is_fit(value):
                yield place or "body"
        elif isinstance(value, dict):
            for key, inner in value.items():
                if not _is_fit(key):
                    yield place or "body"
                waiting.append((f"{place}.{key}" if place else key, inner))
        elif isinstance(value, list):
            waiting += [(f"{place}.{at}" if place else str(at), inner) for at, inner in enumerate(value)]


def _is_fit(text: str) -> bool:
    if text.isascii():
        return _ZERO not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return _ZERO not in text
