"""Questions with the SQL that answers them, and the tables that they are about."""

from __future__ import annotations

from typing import Any

from tunesmith.formats.examples import SqlQuestion, SqlTable
from tunesmith.formats.rows import RowProblem, clip
from tunesmith.formats.shapes.values import Fields, plain_word

_NAME = ("name", "table", "table_name", "id")
_COLUMNS = ("columns", "header")


def parse_sql(fields: Fields) -> SqlQuestion:
    """A question and its SQL, with the schema as text and the tables with their rows where the file has them."""
    question = fields.text("question")
    sql = fields.get("sql")
    if isinstance(sql, dict):
        sql = sql.get("human_readable")
    if not isinstance(sql, str) or not sql.strip():
        raise RowProblem("missing_sql", f"no SQL in column `{fields.columns['sql']}`: {clip(sql)}")
    return SqlQuestion(question, sql.strip(), fields.optional_text("schema"), _tables(fields.get("tables")))


def _tables(value: Any) -> tuple[SqlTable, ...]:
    if value is None or value == "":
        return ()
    tables = [value] if isinstance(value, dict) else value
    if not isinstance(tables, list):
        raise RowProblem("invalid_tables", f"tables must be a list of objects, found {clip(value)}")
    return tuple(_table(table, number) for number, table in enumerate(tables, start=1))


def _table(value: Any, number: int) -> SqlTable:
    if not isinstance(value, dict):
        raise RowProblem("invalid_tables", f"table {number} must be an object, found {clip(value)}")
    name = next((value[key] for key in _NAME if isinstance(value.get(key), str) and value[key].strip()), "table")
    columns = next((value[key] for key in _COLUMNS if isinstance(value.get(key), list)), None)
    rows = value.get("rows") or []
    words = [plain_word(column) for column in columns or ()]
    if not words or not all(words):
        raise RowProblem("invalid_tables", f"table {number} needs `columns`, a list of names: {clip(value)}")
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(words) for row in rows):
        raise RowProblem("invalid_tables", f"the rows of table {number} must be lists of {len(words)} values each")
    if not all(cell is None or isinstance(cell, str | int | float) for row in rows for cell in row):
        raise RowProblem("invalid_tables", f"table {number} holds a value that is no text or number")
    return SqlTable(name, tuple(str(word) for word in words), tuple(tuple(row) for row in rows))
