"""What was used, counted by the hour."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, String, Table

from tunesmith.service.db.tables.columns import LONG_NAME, METADATA, NAME

# project_id: it may be that of a project which was deleted since.
# kind: input_tokens | output_tokens | trained_tokens | stored_byte_hours | requests. hour: hours since 1970.
USAGE = Table(
    "usage",
    METADATA,
    Column("project_id", NAME, nullable=False, index=True),
    Column("hour", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("model", LONG_NAME, nullable=False),
    Column("key_id", NAME, nullable=False, default=""),
    Column("quantity", BigInteger, nullable=False),
    Column("cost", Double, nullable=False),
    Index("uq_usage_row", "project_id", "hour", "kind", "model", "key_id", unique=True),
)
