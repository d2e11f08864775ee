"""Pages: so many of a list, from behind the last name of the page before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from sqlalchemy import Column, Connection, Row, Select

from tunesmith.service.errors import ApiError

Order = Literal["asc", "desc"]


def page(
    connection: Connection,
    query: Select[Any],
    name: Column[str],
    shown: Callable[[Row[Any]], dict[str, Any]],
    *,
    after: str | None,
    limit: int,
    order: Order = "desc",
) -> dict[str, Any]:
    """A page of rows whose names are in the order of time.

    Args:
        connection: To the database.
        query: Everything that may be listed.
        name: The column of names (:mod:`tunesmith.service.ids`).
        shown: A row as it is told.
        after: The last name of the page before; None for the first page.
        limit: Most of a page.
        order: By time, the newest first unless ``asc``.
    """
    if limit < 1:
        raise ApiError(400, "limit must be at least 1", param="limit", code="invalid_value")
    if after is not None:
        query = query.where(name > after if order == "asc" else name < after)
    rows = connection.execute(query.order_by(name.asc() if order == "asc" else name.desc()).limit(limit + 1)).all()
    return listed([shown(row) for row in rows[:limit]], has_more=len(rows) > limit)


def listed(data: Sequence[dict[str, Any]], *, has_more: bool = False) -> dict[str, Any]:
    """The form of every list."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0].get("id") if data else None,
        "last_id": data[-1].get("id") if data else None,
        "has_more": has_more,
    }
