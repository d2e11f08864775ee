"""SQL answers: equal to the reference when written alike, and equal in what they return when run on the given tables.

Queries run on a database in memory that is made anew for each, under an authorizer that lets them read and nothing
else, within limits of time, length and rows. What an answer says can therefore neither write nor reach a file.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from tunesmith.errors import UsageError
from tunesmith.evaluation.metrics.sql_tokens import asks_for_order, known_names, normal_tokens
from tunesmith.evaluation.metrics.types import Rows, check_rows, divide, mean_rows

SECONDS_A_QUERY = 2.0
MOST_ROWS = 10_000
MOST_CHARACTERS = 20_000
MOST_BYTES_OF_A_VALUE = 1_000_000
_INSTRUCTIONS_BETWEEN_LOOKS = 10_000

_FENCE = re.compile(r"```(?:\w+)?\s*\n?(.*?)(?:```|\Z)", re.DOTALL)
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_MAKING_REFUSED = {
    sqlite3.SQLITE_ATTACH,
    sqlite3.SQLITE_DETACH,
    sqlite3.SQLITE_PRAGMA,
    sqlite3.SQLITE_CREATE_VTABLE,
    sqlite3.SQLITE_CREATE_TRIGGER,
}

Result = list[tuple[Any, ...]]


def query_of(answer: str) -> str:
    """The query of an answer: what stands in its first fence, or all of it; without a semicolon at the end."""
    fenced = _FENCE.search(answer)
    return (fenced.group(1) if fenced else answer).strip().rstrip(";").strip()


def run_query(query: str, tables: Sequence[Mapping[str, Any]], script: str | None) -> Result | None:
    """What a query returns on the tables, or None where it fails, writes, takes too long or returns too much.

    Args:
        query: One statement that reads.
        tables: ``name``, ``columns`` and ``rows`` of each.
        script: Statements that make tables and fill them, run before.
    """
    if len(query) > MOST_CHARACTERS or "\0" in query:
        return None
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            _make(database, tables, script)
            database.set_authorizer(_only_reads)
            return _within_time(database, query)
        except (sqlite3.Error, sqlite3.Warning, UnicodeError, OverflowError, MemoryError):
            return None


def _make(database: sqlite3.Connection, tables: Sequence[Mapping[str, Any]], script: str | None) -> None:
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES_OF_A_VALUE)
    database.set_authorizer(_only_makes)
    _stop_after(database)
    if script is not None:
        database.executescript(script)
    for table in tables:
        columns = ", ".join(map(_quoted, table["columns"]))
        database.execute(f"CREATE TABLE {_quoted(table['name'])} ({columns})")
        places = ", ".join("?" * len(table["columns"]))
        database.executemany(f"INSERT INTO {_quoted(table['name'])} VALUES ({places})", table["rows"])  # noqa: S608
    database.commit()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _stop_after(database: sqlite3.Connection) -> None:
    end = time.monotonic() + SECONDS_A_QUERY
    database.set_progress_handler(lambda: int(time.monotonic() > end), _INSTRUCTIONS_BETWEEN_LOOKS)


def _within_time(database: sqlite3.Connection, query: str) -> Result | None:
    _stop_after(database)
    rows = database.execute(query).fetchmany(MOST_ROWS + 1)
    return None if len(rows) > MOST_ROWS else rows


def _only_reads(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    allowed = action in _READING and "load_extension" not in (first, second)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _only_makes(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    refused = action in _MAKING_REFUSED or "load_extension" in (first, second)
    return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK


def same_result(found: Result, wanted: Result, *, ordered: bool) -> bool:
    """Whether two results are the same rows; their order counts only where the reference asks for one."""
    ours, theirs = ([tuple(map(_cell, row)) for row in rows] for rows in (found, wanted))
    return ours == theirs if ordered else Counter(ours) == Counter(theirs)


def _cell(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def _reference(reference: Any) -> Mapping[str, Any]:
    if isinstance(reference, str):
        return {"sql": reference, "script": None, "tables": ()}
    if isinstance(reference, Mapping) and isinstance(reference.get("sql"), str):
        return reference
    raise UsageError("a reference holds no SQL", code="metrics.reference", value=repr(reference)[:80])


def sql_exact_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Whether each query is the reference's, but for case, blanks and quotes of names."""
    check_rows(predictions, references)
    scores = []
    for answer, given in zip(predictions, references, strict=True):
        reference = _reference(given)
        names = known_names(reference.get("tables") or (), reference.get("script"))
        ours, theirs = (normal_tokens(query_of(query), names) for query in (answer, reference["sql"]))
        scores.append(float(ours == theirs))
    return mean_rows(scores)


def _executions(predictions: Sequence[str], references: Sequence[Any]) -> list[bool | None]:
    """Whether each query returns what the reference's does; None where that one cannot be run."""
    check_rows(predictions, references)
    found: list[bool | None] = []
    for answer, given in zip(predictions, references, strict=True):
        reference = _reference(given)
        tables, script = reference.get("tables") or (), reference.get("script")
        wanted = run_query(query_of(reference["sql"]), tables, script) if tables or script else None
        if wanted is None:
            found.append(None)
            continue
        result = run_query(query_of(answer), tables, script)
        ordered = asks_for_order(query_of(reference["sql"]))
        found.append(result is not None and same_result(result, wanted, ordered=ordered))
    return found


def sql_execution_rows(predictions: Sequence[str], references: Sequence[Any]) -> Rows:
    """Per row: right, runnable. Rows without tables, or whose own reference fails on them, do not count."""
    executions = _executions(predictions, references)
    right = np.array([float(one is True) for one in executions])
    counted = np.array([float(one is not None) for one in executions])
    return Rows(np.stack([right, counted], axis=1), divide(right, counted))


def sql_details(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, Any]:
    """On how many rows queries could be run at all."""
    executions = _executions(predictions, references)
    return {"sql_rows": {"run": sum(one is not None for one in executions), "all": len(executions)}}
