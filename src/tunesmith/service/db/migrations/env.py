"""Alembic's entry: runs over the connection that :mod:`tunesmith.service.db.migrate` hands in."""

from __future__ import annotations

from alembic import context

from tunesmith.service.db.tables import METADATA

_connection = context.config.attributes["connection"]
context.configure(
    connection=_connection,
    target_metadata=METADATA,
    render_as_batch=_connection is not None and _connection.dialect.name == "sqlite",
)
context.run_migrations()
