"""What a service keeps: answers to requests that may come twice, who did what, and who wants to be told."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Integer, String, Table, UniqueConstraint

from tunesmith.service.db.tables.columns import (
    LONG_NAME,
    METADATA,
    NAME,
    id_column,
    json_column,
    project_column,
    time_column,
)

# A request by its key; without an answer it is under way.
REQUESTS = Table(
    "requests",
    METADATA,
    id_column(),
    project_column(),
    Column("key", String(255), nullable=False),
    Column("body", String(64), nullable=False),
    Column("status", Integer),
    json_column("answer"),
    time_column("created_at", nullable=False),
    time_column("expires_at", nullable=False),
    UniqueConstraint("project_id", "key"),
)

AUDIT = Table(
    "audit",
    METADATA,
    id_column(),
    Column("project_id", NAME, index=True),
    Column("actor", LONG_NAME, nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", LONG_NAME, nullable=False),
    json_column("detail"),
    Column("request_id", NAME),
    Column("client", String(64)),
    time_column("created_at", nullable=False),
)

WEBHOOKS = Table(
    "webhooks",
    METADATA,
    id_column(),
    project_column(),
    Column("url", String(2048), nullable=False),
    Column("secret", String(255), nullable=False),
    json_column("events", nullable=False),
    Column("enabled", Boolean, nullable=False, default=True),
    time_column("created_at", nullable=False),
)

# state: waiting | delivered | given_up
DELIVERIES = Table(
    "deliveries",
    METADATA,
    id_column(),
    Column("webhook_id", NAME, nullable=False, index=True),
    project_column(),
    Column("event", String(64), nullable=False),
    json_column("payload", nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("tries", Integer, nullable=False, default=0),
    time_column("next_at", nullable=False),
    Column("answer", String(255)),
    time_column("created_at", nullable=False),
)
