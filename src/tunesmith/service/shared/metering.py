"""What a project has used, and what that costs: tokens in, tokens out, tokens trained.

Prices are the operator's, per million tokens by model and kind; ``*`` is every other model. Without a price nothing
costs anything, and is counted all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from sqlalchemy import Connection, Row, func, select

from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.files import FILES, UPLOAD_PARTS, UPLOADS
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.errors import ApiError
from tunesmith.service.settings import UseKind

Kind = UseKind
KINDS: tuple[Kind, ...] = get_args(Kind)
HOUR_SECONDS = 3600
_MILLION = 1_000_000
_KEY = ("project_id", "hour", "kind", "model", "key_id")
_ANY_MODEL = "*"


def count_use(
    context: Context,
    connection: Connection,
    project_id: str,
    model: str,
    quantities: Mapping[Kind, int],
    *,
    key_id: str | None = None,
    price_of: str | None = None,
) -> None:
    """Add to what a project has used in this hour.

    Args:
        context: The service.
        connection: Of a transaction that writes; the use is counted with what it belongs to, or not at all.
        project_id: Who pays.
        model: What was used, by its own name.
        quantities: How much of each kind.
        key_id: Whose key it was.
        price_of: The model whose price it has, where the model itself has none: the base of a tuned one.
    """
    hour = int(context.now() // HOUR_SECONDS)
    for kind, quantity in quantities.items():
        if not quantity:
            continue
        cost = price(context, model, kind, price_of) * quantity / _MILLION
        row = {
            "project_id": project_id,
            "hour": hour,
            "kind": kind,
            "model": model,
            "key_id": key_id or "",
            "quantity": quantity,
            "cost": cost,
        }
        added = {"quantity": USAGE.c.quantity + quantity, "cost": USAGE.c.cost + cost}
        context.database.upsert(connection, USAGE, row, _KEY, added)


def price(context: Context, model: str, kind: Kind, price_of: str | None = None) -> float:
    """The price of a million, in the service's currency."""
    prices = context.settings.prices
    for name in (model, price_of, _ANY_MODEL):
        if name is not None and kind in prices.get(name, {}):
            return float(prices[name][kind])
    return 0.0


def spent(connection: Connection, project_id: str, since: float) -> float:
    """What a project has spent since a moment, by whole hours."""
    total = select(func.coalesce(func.sum(USAGE.c.cost), 0.0)).where(
        USAGE.c.project_id == project_id, USAGE.c.hour >= int(since // HOUR_SECONDS)
    )
    return float(connection.execute(total).scalar_one())


def stored_bytes(connection: Connection, project_id: str) -> int:
    """Bytes of a project's files, and of parts of uploads that are under way."""
    files = select(func.coalesce(func.sum(FILES.c.bytes), 0)).where(
        FILES.c.project_id == project_id, FILES.c.deleted_at.is_(None)
    )
    parts = (
        select(func.coalesce(func.sum(UPLOAD_PARTS.c.bytes), 0))
        .join(UPLOADS, UPLOADS.c.id == UPLOAD_PARTS.c.upload_id)
        .where(UPLOADS.c.project_id == project_id, UPLOADS.c.status == "pending")
    )
    return int(connection.execute(files).scalar_one()) + int(connection.execute(parts).scalar_one())


def count_stored(context: Context, connection: Connection, project_id: str) -> None:
    """Count the bytes that a project keeps in this hour; a second time in the hour changes nothing."""
    quantity = stored_bytes(connection, project_id)
    row = {
        "project_id": project_id,
        "hour": int(context.now() // HOUR_SECONDS),
        "kind": "stored_byte_hours",
        "model": "",
        "key_id": "",
        "quantity": quantity,
        "cost": price(context, "", "stored_byte_hours") * quantity / _MILLION,
    }
    if quantity:
        context.database.upsert(connection, USAGE, row, _KEY)


def is_over_budget(context: Context, connection: Connection, project: Row[Any]) -> bool:
    """Whether a project has spent its budget of this month.

    Args:
        context: The service.
        connection: To the database.
        project: The project's row.
    """
    if project.budget is None:
        return False
    return spent(connection, project.id, month_of(context.now())) >= float(project.budget)


def require_budget(context: Context, connection: Connection, project_id: str, coming: float = 0.0) -> None:
    """Refuse what would go beyond a project's budget of the month.

    Args:
        context: The service.
        connection: To the database.
        project_id: Who pays.
        coming: What the refused thing is known to cost.

    Raises:
        ApiError: 429 ``insufficient_quota``, as OpenAI says it.
    """
    budget = connection.execute(select(PROJECTS.c.budget).where(PROJECTS.c.id == project_id)).scalar_one_or_none()
    if budget is None:
        return
    used = spent(connection, project_id, month_of(context.now()))
    if used >= budget or used + coming > budget:
        raise ApiError(
            429,
            f"The project's budget of {budget:g} {context.settings.currency} a month does not allow this: "
            f"{used:.4f} is spent" + (f", and this would cost {coming:.4f}" if coming else ""),
            code="insufficient_quota",
            retry=False,
        )


def month_of(moment: float) -> float:
    """The first second of a moment's month, UTC."""
    day = datetime.fromtimestamp(moment, UTC)
    return day.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
