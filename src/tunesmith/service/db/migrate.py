"""Bring a database to the tables that this version wants; an empty one and an older one alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from tunesmith.errors import UsageError
from tunesmith.service.db.database import Database

_FOLDER = Path(__file__).parent / "migrations"
# Of one service several processes start at once; one of them brings the tables up to date.
_LOCK = 0x7A5C_0001


def upgrade(database: Database, revision: str = "head") -> None:
    """Make or change the tables.

    Raises:
        UsageError: ``service.newer_database``: a newer version of Tunesmith has made them.
    """
    with _alone(database) as connection:
        _require_known(connection)
        command.upgrade(_config(connection), revision)


def revision_of(database: Database) -> str | None:
    """The version of a database's tables; None for an empty one."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest() -> str:
    """The version that this program wants."""
    found = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert found is not None
    return found


def revisions() -> frozenset[str]:
    """All versions of tables that this program knows."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config(None)).walk_revisions())


def _require_known(connection: Connection) -> None:
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in revisions():
        raise UsageError(
            "a newer version of Tunesmith has changed this database",
            code="service.newer_database",
            value=current,
            hint="start that version, or restore a backup from before",
        )


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    with database.engine.connect() as connection:
        if database.is_postgresql:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        else:
            # Tables are rebuilt where SQLite cannot change them, which references would not survive.
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.commit()
        finally:
            if not database.is_postgresql:
                connection.rollback()
                connection.exec_driver_sql("PRAGMA foreign_keys=ON")


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.attributes["connection"] = connection
    return config
