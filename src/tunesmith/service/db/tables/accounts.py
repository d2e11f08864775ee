"""Projects, the people in them, and their keys."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, ForeignKey, Integer, String, Table, UniqueConstraint

from tunesmith.service.db.tables.columns import (
    LONG_NAME,
    METADATA,
    NAME,
    id_column,
    json_column,
    project_column,
    time_column,
)

# allowed_models: null allows every model of the service. budget_action: stop | pause.
PROJECTS = Table(
    "projects",
    METADATA,
    id_column(),
    Column("name", LONG_NAME, nullable=False, unique=True),
    time_column("created_at", nullable=False),
    time_column("archived_at"),
    json_column("allowed_models"),
    Column("priority", Integer, nullable=False, default=0),
    Column("jobs_at_once", Integer),
    Column("storage_bytes", BigInteger),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("budget", Double),
    Column("budget_action", String(16), nullable=False, default="stop"),
    Column("retention_days", Integer),
    # The month, by its first second, of which was told that the budget is gone.
    time_column("budget_told"),
)

# Names of projects that are gone, for what they had used.
DELETED_PROJECTS = Table(
    "deleted_projects",
    METADATA,
    id_column(),
    Column("name", LONG_NAME, nullable=False),
    time_column("deleted_at", nullable=False),
)

# Jobs and batches of projects that are gone: machines that have folders of theirs remove them.
DELETED_WORK = Table(
    "deleted_work",
    METADATA,
    id_column(),
    time_column("deleted_at", nullable=False),
)

USERS = Table(
    "users",
    METADATA,
    id_column(),
    Column("email", LONG_NAME, nullable=False, unique=True),
    Column("name", String(255), nullable=False),
    Column("subject", LONG_NAME, unique=True),
    Column("is_admin", Boolean, nullable=False, default=False),
    time_column("created_at", nullable=False),
    time_column("disabled_at"),
)

# role: owner | member | inference
MEMBERS = Table(
    "members",
    METADATA,
    Column("project_id", NAME, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", NAME, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("role", String(16), nullable=False),
    time_column("created_at", nullable=False),
)

# A key without a project is an administrator's. scope: admin | member | inference.
API_KEYS = Table(
    "api_keys",
    METADATA,
    id_column(),
    Column("project_id", NAME, ForeignKey("projects.id", ondelete="CASCADE"), index=True),
    Column("user_id", NAME, ForeignKey("users.id", ondelete="SET NULL")),
    Column("name", String(255), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("shown", String(16), nullable=False),
    Column("scope", String(16), nullable=False),
    Column("created_by", LONG_NAME),
    time_column("created_at", nullable=False),
    time_column("expires_at"),
    time_column("revoked_at"),
    time_column("used_at"),
)

# Signed in by a browser: the cookie has a secret of which only the hash is here.
SESSIONS = Table(
    "sessions",
    METADATA,
    id_column(),
    Column("hash", String(64), nullable=False, unique=True),
    Column("user_id", NAME, ForeignKey("users.id", ondelete="CASCADE")),
    Column("key_id", NAME, ForeignKey("api_keys.id", ondelete="CASCADE")),
    Column("csrf", String(64), nullable=False),
    time_column("created_at", nullable=False),
    time_column("expires_at", nullable=False),
)

# Somebody is on the way to the provider and back: what the answer has to fit. id: hash of the state.
SIGN_INS = Table(
    "sign_ins",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("nonce", String(64), nullable=False),
    Column("verifier", String(128), nullable=False),
    time_column("expires_at", nullable=False),
)

# What the service made for itself at its first start, and all of its processes share.
SECRETS = Table(
    "secrets",
    METADATA,
    Column("name", NAME, primary_key=True),
    Column("value", String(128), nullable=False),
)

# What was counted in a minute, of all processes. subject: whose, and of what. minute: minutes since 1970.
RATES = Table(
    "rates",
    METADATA,
    Column("subject", LONG_NAME, primary_key=True),
    Column("minute", BigInteger, primary_key=True, autoincrement=False),
    Column("quantity", BigInteger, nullable=False),
)

# What somebody agreed to for a project: the licence of a model.
LICENCES = Table(
    "licences",
    METADATA,
    id_column(),
    project_column(),
    Column("model", LONG_NAME, nullable=False),
    Column("licence", String(255), nullable=False),
    Column("accepted_by", LONG_NAME, nullable=False),
    time_column("accepted_at", nullable=False),
    UniqueConstraint("project_id", "model"),
)
