"""A database behind one address: SQLite in a file, or PostgreSQL.

Transactions are short: nothing is asked of a network within one. A transaction that writes takes its lock at once, so
that two that read and then write do not both believe what they read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from tunesmith.errors import UsageError

_BUSY_SECONDS = 30.0
_POOL = 16


class Database:
    """Connections of one process.

    Args:
        engine: SQLAlchemy's.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def is_postgresql(self) -> bool:
        """Whether several machines may use it."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads; what it sees does not change meanwhile."""
        with self.engine.connect() as connection:
            if self.is_postgresql:
                connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            else:
                connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: committed at the end of the block, undone by an error."""
        with self.engine.connect() as connection:
            if not self.is_postgresql:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def upsert(
        self,
        connection: Connection,
        table: Table,
        values: Mapping[str, Any],
        key: Sequence[str],
        update: Mapping[str, Any] | None = None,
    ) -> None:
        """Insert a row; where one of the same key is there, set ``update`` on it, or leave it as it is.

        Args:
            connection: Of a transaction that writes.
            table: Where.
            values: The new row.
            key: Columns of a unique constraint.
            update: New values by column; expressions may name the table's columns.
        """
        insert = postgresql.insert(table) if self.is_postgresql else sqlite.insert(table)
        given = insert.values(dict(values))
        if update is None:
            connection.execute(given.on_conflict_do_nothing(index_elements=list(key)))
        else:
            connection.execute(given.on_conflict_do_update(index_elements=list(key), set_=dict(update)))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def open_database(url: str) -> Database:
    """The database at an address: ``sqlite:///FOLDER/FILE`` or ``postgresql://...``; no connection is made yet.

    Raises:
        UsageError: ``service.database``: no such kind.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise UsageError("not the address of a database", code="service.database") from error
    name = parsed.get_backend_name()
    if name == "sqlite":
        assert parsed.database is not None
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS}, pool_size=_POOL, max_overflow=_POOL)
        event.listen(engine, "connect", _prepare_sqlite)
        return Database(engine)
    if name == "postgresql":
        # A server that was started again has closed what the pool still holds.
        engine = create_engine(
            parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=_POOL, max_overflow=_POOL
        )
        return Database(engine)
    raise UsageError(
        "the service has no such database",
        code="service.database",
        value=name,
        hint="give sqlite:///FOLDER/FILE or postgresql://USER@HOST/NAME",
    )


def _prepare_sqlite(connection: Any, _entry: ConnectionPoolEntry) -> None:
    # Transactions begin where we say so, and not where the driver thinks.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={_BUSY_SECONDS * 1000:.0f}",
    ):
        connection.execute(f"PRAGMA {pragma}")
