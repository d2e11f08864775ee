"""Models that are measured on the rows of a file."""

from __future__ import annotations

from sqlalchemy import Column, Integer, String, Table

from tunesmith.service.db.tables.columns import (
    LONG_NAME,
    METADATA,
    NAME,
    id_column,
    json_column,
    project_column,
    time_column,
)

# state: queued | running | succeeded | failed | cancelled.
# model: as it was asked for; measured: the model that it meant then; base: what that stands on, or the model itself.
# tries: how often somebody began it in vain.
EVALUATIONS = Table(
    "evaluations",
    METADATA,
    id_column(),
    project_column(),
    Column("key_id", NAME),
    Column("model", LONG_NAME, nullable=False),
    Column("measured", LONG_NAME, nullable=False),
    Column("base", LONG_NAME, nullable=False),
    Column("file_id", NAME, nullable=False),
    json_column("options", nullable=False),
    json_column("metadata"),
    Column("state", String(16), nullable=False, index=True),
    json_column("error"),
    json_column("progress"),
    json_column("result"),
    json_column("usage"),
    Column("tries", Integer, nullable=False, default=0),
    time_column("created_at", nullable=False),
    time_column("started_at"),
    time_column("finished_at"),
    Column("lock_token", String(64)),
    time_column("lock_expires_at"),
)
