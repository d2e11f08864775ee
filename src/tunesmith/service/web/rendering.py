"""From what the API tells to HTML: the templates, and how numbers and moments are written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tunesmith.service.web.asking import PROJECT_COOKIE, Api

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
# From npm packages, which `make web` fetches; the pages say so when they are missing.
VENDOR = ("vendor/htmx.min.js", "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css")
_HASH_LETTERS = 12
_BYTES_A_STEP = 1024
_SMALL = 0.001
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def page(request: Request, api: Api | None, template: str, *, status: int = 200, **content: Any) -> HTMLResponse:
    """A page, or a part of one.

    Args:
        request: What was asked.
        api: The API as the reader sees it; None where nobody is signed in.
        template: Which file of the folder ``templates``.
        status: HTTP's number.
        content: What the template shows.
    """
    session: Mapping[str, Any] = {} if api is None else api.session
    text = (
        environment()
        .get_template(template)
        .render(
            session=session,
            may_change=api is not None and api.may_change,
            is_admin=api is not None and api.is_admin,
            is_operator=bool(session.get("is_operator")),
            chosen_project=request.cookies.get(PROJECT_COOKIE),
            path=request.url.path,
            missing=missing_files(),
            **content,
        )
    )
    # It shows what is the reader's alone.
    return HTMLResponse(text, status_code=status, headers={"Cache-Control": "no-store"})


@cache
def environment() -> Environment:
    """The templates; whatever is put into them is escaped, and a name that is not there is an error."""
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(moment=moment, size=size, duration=duration, count=count, money=money, short=short)
    made.globals.update(asset=asset)
    return made


def missing_files() -> tuple[str, ...]:
    """Files of others that the pages want and that are not there."""
    return tuple(name for name in VENDOR if not (STATIC / name).is_file())


@cache
def asset(name: str) -> str:
    """The address of a file of ours, which changes with its content."""
    path = STATIC / name
    content = path.read_bytes() if path.is_file() else b""
    return f"/ui/static/{name}?v={hashlib.sha256(content).hexdigest()[:_HASH_LETTERS]}"


def moment(seconds: float | None) -> str:
    """A moment as ``2026-11-29 20:15`` in UTC; pages turn it into the reader's own time."""
    return "–" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def size(value: float | None) -> str:
    """Bytes for people."""
    if value is None:
        return "–"
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < _BYTES_A_STEP:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= _BYTES_A_STEP
    return f"{amount:.1f} TiB"


def duration(seconds: float | None) -> str:
    """A span of time for people."""
    if seconds is None:
        return "–"
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < _DAY:
        return f"{seconds / _HOUR:.1f} h"
    return f"{seconds / _DAY:.1f} days"


def count(value: float | None) -> str:
    """A whole number with its thousands apart."""
    return "–" if value is None else f"{round(value):,}"


def money(value: float | None, currency: str) -> str:
    """An amount; small ones keep their digits."""
    if value is None:
        return "–"
    whole, _, part = f"{value:,.{2 if value >= 1 else 4 if value >= _SMALL else 6}f}".partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')} {currency}"


def short(value: float | None) -> str:
    """A measured number with four digits."""
    return "–" if value is None else f"{value:.4g}"
