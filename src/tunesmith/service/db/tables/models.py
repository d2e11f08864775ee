"""Tuned models by the names that requests use."""

from __future__ import annotations

from sqlalchemy import Column, String, Table

from tunesmith.service.db.tables.columns import LONG_NAME, METADATA, NAME, project_column, time_column

# id: ft:base:project:suffix:chance, or that with :ckpt-step-N. address: where the registry keeps it.
TUNED_MODELS = Table(
    "tuned_models",
    METADATA,
    Column("id", LONG_NAME, primary_key=True),
    project_column(),
    Column("job_id", NAME, index=True),
    Column("base", LONG_NAME, nullable=False),
    Column("address", String(255), nullable=False),
    time_column("created_at", nullable=False),
    time_column("deleted_at"),
)
