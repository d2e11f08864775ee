"""Use and prices as answers have them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Row

from tunesmith.service.shared.metering import HOUR_SECONDS

Group = Literal["day", "model", "key", "kind"]
COLUMNS = ("project_id", "day", "model", "key_id", "kind", "quantity", "cost", "currency")
_DAY_HOURS = 24
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def day_of(day: int) -> str:
    """A day by its number since 1970, as ``2026-11-29``."""
    return datetime.fromtimestamp(day * _DAY_HOURS * HOUR_SECONDS, UTC).date().isoformat()


def use_row(row: Row[Any], currency: str) -> dict[str, Any]:
    """A line of use: what it is grouped by, how much, and its cost."""
    found = dict(row._mapping)
    if "day" in found:
        found["day"] = day_of(found["day"])
    return {**found, "quantity": int(found["quantity"]), "cost": float(found["cost"]), "currency": currency}


def project_row(row: Row[Any], currency: str) -> dict[str, Any]:
    """A line of a project's use, for who runs the service."""
    found = use_row(row, currency)
    gone = found["deleted_at"]
    return {**found, "deleted_at": None if gone is None else int(gone)}


def csv_lines(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """The lines of a table for a spreadsheet; no name of a model becomes a formula there."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in COLUMNS])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
