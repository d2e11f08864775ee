"""Rows of a database as lines of JSON, the same for every kind of database.

Tables are taken as the database has them and not as this program wants them, so that older ones can be restored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO

import orjson
from sqlalchemy import JSON, Connection, MetaData, Table, insert, select

_VERSION_TABLE = "alembic_version"
_AT_ONCE = 500


def tables_of(connection: Connection) -> list[Table]:
    """The tables of a database, each behind those that it names."""
    metadata = MetaData()
    metadata.reflect(connection)
    tables = [table for table in metadata.sorted_tables if table.name != _VERSION_TABLE]
    for table in tables:
        for column in table.columns:
            if isinstance(column.type, JSON):
                # What was NULL is to be NULL again, and not JSON's null.
                column.type.none_as_null = True
    return tables


def dump_rows(connection: Connection, table: Table, target: BinaryIO) -> int:
    """Write all rows of a table, one a line; how many there are."""
    rows = 0
    found = select(table).order_by(*table.primary_key.columns)
    # The database's own kind of text for names is not JSON's.
    names = [f"{column.name}" for column in table.columns]
    for row in connection.execute(found, execution_options={"yield_per": _AT_ONCE}):
        target.write(orjson.dumps(dict(zip(names, row, strict=True))) + b"\n")
        rows += 1
    return rows


def load_rows(connection: Connection, table: Table, source: BinaryIO) -> int:
    """Insert what :func:`dump_rows` wrote; how many rows."""
    rows = 0
    for some in _batches(orjson.loads(line) for line in source):
        connection.execute(insert(table), some)
        rows += len(some)
    return rows


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    waiting = iter(rows)
    while some := list(islice(waiting, _AT_ONCE)):
        yield some
