"""Processes that answer, deployments, and batches."""

from __future__ import annotations

from sqlalchemy import Column, Double, Integer, String, Table, UniqueConstraint

from tunesmith.service.db.tables.columns import (
    LONG_NAME,
    METADATA,
    NAME,
    id_column,
    json_column,
    project_column,
    time_column,
)

# One process with one base and the adapters on it. state: wanted | starting | ready | failed | stopped.
# base: what is loaded (a catalog id, or the address of a version without an adapter).
ENGINES = Table(
    "engines",
    METADATA,
    id_column(),
    Column("base", LONG_NAME, nullable=False),
    Column("state", String(16), nullable=False),
    Column("host", String(255)),
    Column("address", String(255)),
    Column("token", String(128)),
    Column("reason", String(1024)),
    time_column("created_at", nullable=False),
    time_column("used_at", nullable=False),
    time_column("beat_at"),
    UniqueConstraint("base"),
)

# kind: real-time | batch. How it is, its engines say.
# traffic: parts by model name, such as {"ft:a": 90, "ft:b": 10}.
DEPLOYMENTS = Table(
    "deployments",
    METADATA,
    id_column(),
    project_column(),
    Column("name", LONG_NAME, nullable=False),
    Column("kind", String(16), nullable=False),
    json_column("traffic", nullable=False),
    # Of engines that stay though nobody asks; 0 lets them sleep.
    Column("least_replicas", Integer, nullable=False, default=0),
    Column("idle_seconds", Double),
    time_column("created_at", nullable=False),
    UniqueConstraint("project_id", "name"),
)

# state: validating | failed | in_progress | finalizing | completed | expired | cancelling | cancelled
BATCHES = Table(
    "batches",
    METADATA,
    id_column(),
    project_column(),
    Column("key_id", NAME),
    Column("endpoint", String(64), nullable=False),
    Column("completion_window", String(16), nullable=False),
    Column("input_file_id", NAME, nullable=False),
    Column("output_file_id", NAME),
    Column("error_file_id", NAME),
    Column("output_expires_seconds", Integer),
    Column("state", String(16), nullable=False, index=True),
    Column("model", LONG_NAME),
    json_column("metadata"),
    json_column("errors"),
    Column("total", Integer, nullable=False, default=0),
    Column("completed", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    json_column("usage"),
    json_column("moments", nullable=False),
    time_column("created_at", nullable=False),
    time_column("expires_at", nullable=False),
    Column("lock_token", String(64)),
    time_column("lock_expires_at"),
)
