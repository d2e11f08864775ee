"""Sums of what was used."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Integer, Select, cast, func, select

from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import DELETED_PROJECTS, PROJECTS
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.errors import ApiError
from tunesmith.service.shared.metering import HOUR_SECONDS, count_stored, is_over_budget, month_of
from tunesmith.service.shared.telling import tell
from tunesmith.service.usage.schema import Group

_DAY_HOURS = 24
_MOST_DAYS = 400


def hours_of(context: Context, start: date | None, end: date | None) -> tuple[int, int]:
    """The first hour of a day, and the first one behind another; this month where no day is named.

    Raises:
        ApiError: 400: the days are too many, or the wrong way around.
    """
    now = context.now()
    first = month_of(now) if start is None else _moment(start)
    # Behind the last day that a calendar has there is none.
    last = now + HOUR_SECONDS if end is None else _moment(end) + _DAY_HOURS * HOUR_SECONDS
    if not 0 < last - first <= _MOST_DAYS * _DAY_HOURS * HOUR_SECONDS:
        raise ApiError(400, f"From 1 to {_MOST_DAYS} days, in their order", code="invalid_value", param="end")
    return int(first // HOUR_SECONDS), int(-(-last // HOUR_SECONDS))


def sums(project_id: str, hours: tuple[int, int], groups: Collection[Group]) -> Select[Any]:
    """A project's use in some hours, summed up by groups.

    Args:
        project_id: Whose.
        hours: The first, and the first behind the last.
        groups: What each line is of; kinds are never added to each other.
    """
    columns: dict[str, Any] = {
        "day": cast(func.floor(USAGE.c.hour / _DAY_HOURS), Integer).label("day"),
        "model": USAGE.c.model,
        "key": USAGE.c.key_id,
        "kind": USAGE.c.kind,
    }
    wanted = [columns[name] for name in ("day", "model", "key", "kind") if name in groups or name == "kind"]
    return (
        select(*wanted, func.sum(USAGE.c.quantity).label("quantity"), func.sum(USAGE.c.cost).label("cost"))
        .where(USAGE.c.project_id == project_id, USAGE.c.hour >= hours[0], USAGE.c.hour < hours[1])
        .group_by(*wanted)
        .order_by(*wanted)
    )


def sums_of_projects(hours: tuple[int, int]) -> Select[Any]:
    """What each project has used in some hours, by its name; also those that were deleted since."""
    wanted = [
        USAGE.c.project_id,
        func.coalesce(PROJECTS.c.name, DELETED_PROJECTS.c.name).label("project"),
        DELETED_PROJECTS.c.deleted_at,
        USAGE.c.kind,
    ]
    return (
        select(*wanted, func.sum(USAGE.c.quantity).label("quantity"), func.sum(USAGE.c.cost).label("cost"))
        .outerjoin(PROJECTS, PROJECTS.c.id == USAGE.c.project_id)
        .outerjoin(DELETED_PROJECTS, DELETED_PROJECTS.c.id == USAGE.c.project_id)
        .where(USAGE.c.hour >= hours[0], USAGE.c.hour < hours[1])
        .group_by(
            USAGE.c.project_id, PROJECTS.c.name, DELETED_PROJECTS.c.name, DELETED_PROJECTS.c.deleted_at, USAGE.c.kind
        )
        .order_by(USAGE.c.project_id, USAGE.c.kind)
    )


def tell_of_budgets(context: Context) -> None:
    """Tell projects whose budget of the month is gone, once in a month."""
    month = month_of(context.now())
    with context.database.read() as connection:
        found = select(PROJECTS).where(
            PROJECTS.c.budget.is_not(None), func.coalesce(PROJECTS.c.budget_told, 0.0) < month
        )
        over = [row for row in connection.execute(found).all() if is_over_budget(context, connection, row)]
    for row in over:
        _tell_of_budget(context, row, month)


def _tell_of_budget(context: Context, row: Any, month: float) -> None:
    told = func.coalesce(PROJECTS.c.budget_told, 0.0)
    with context.database.write() as connection:
        mine = PROJECTS.update().where(PROJECTS.c.id == row.id, told < month).values(budget_told=month)
        # Another process has told them.
        if connection.execute(mine).rowcount == 0:
            return
        data = {"id": row.id, "budget": row.budget, "currency": context.settings.currency}
        tell(context, connection, row.id, "budget.exceeded", {**data, "budget_action": row.budget_action})


def count_storage(context: Context) -> None:
    """Count the bytes that each project keeps in this hour, once; hours in which nobody looked cost nothing."""
    with context.database.read() as connection:
        projects = list(connection.execute(select(PROJECTS.c.id).where(PROJECTS.c.archived_at.is_(None))).scalars())
    for project_id in projects:
        with context.database.write() as connection:
            count_stored(context, connection, project_id)


def _moment(day: date) -> float:
    return datetime.combine(day, datetime.min.time(), UTC).timestamp()
