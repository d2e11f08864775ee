"""SQL answers: what is equal, what returns the same, and that no answer can do more than read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tunesmith.evaluation.metrics import score
from tunesmith.evaluation.metrics import sql as module
from tunesmith.evaluation.metrics.sql import run_query
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.read import read_examples
from tunesmith.tasks import prepare_task

TABLES = ({"name": "city", "columns": ("name", "people"), "rows": (("Oslo", 700), ("Rome", 2800), ("Pisa", 90))},)


@pytest.mark.parametrize(
    ("answer", "is_equal"),
    [
        ("select NAME from city where people>100;", True),
        ("```sql\nSELECT name\nFROM city\nWHERE people > 100\n```", True),
        ('SELECT "name" FROM `city` WHERE people > 100', True),
        ("SELECT name FROM city WHERE people > 101", False),
        ("", False),
    ],
)
def test_equal_queries(answer: str, is_equal: bool) -> None:
    found = score(["sql_exact"], [answer], ["SELECT name FROM city WHERE people > 100"])
    assert found["sql_exact"]["value"] == is_equal


def test_texts_are_compared_as_they_are() -> None:
    assert score(["sql_exact"], ["SELECT a WHERE b = 'oslo'"], ["SELECT a WHERE b = 'Oslo'"])["sql_exact"]["value"] == 0


ORDERS = ({"name": "order", "columns": ("id", "Town"), "rows": ((1, "Oslo"), (2, "New York"))},)


@pytest.mark.parametrize(
    ("answer", "wanted", "tables", "is_equal"),
    [
        # A text between double quotes is one as SQLite reads it, where no column is called so.
        ('SELECT id WHERE town = "new york"', 'SELECT id WHERE town = "New York"', ORDERS, False),
        ("SELECT id WHERE town = 'New York'", 'SELECT id WHERE town = "New York"', ORDERS, True),
        ('SELECT id WHERE town IN ("Oslo", "x")', 'SELECT id WHERE town IN ("oslo", "x")', (), False),
        ('SELECT id WHERE town = "new york"', 'SELECT id WHERE town = "New York"', (), False),
        ('SELECT id WHERE "town" = 1', 'SELECT id WHERE "Town" = 1', (), True),
        ('SELECT id WHERE x = "town"', 'SELECT id WHERE x = "Town"', ORDERS, True),
        ('SELECT id AS "Number" ORDER BY "number"', 'SELECT id AS "number" ORDER BY "Number"', ORDERS, True),
        ("SELECT id WHERE a == 1", "SELECT id WHERE a = 1", (), True),
    ],
)
def test_double_quotes(answer: str, wanted: str, tables: tuple[dict[str, object], ...], is_equal: bool) -> None:
    reference = {"sql": wanted, "script": None, "tables": tables}
    assert score(["sql_exact"], [answer], [reference])["sql_exact"]["value"] == is_equal


def test_names_of_a_script_are_names() -> None:
    script = "CREATE TABLE t (\"Home Town\" TEXT); INSERT INTO t VALUES ('Oslo')"
    reference = {"sql": 'SELECT "Home Town" FROM t WHERE "home town" = "Oslo"', "script": script, "tables": ()}
    answers = ('SELECT "home town" FROM t WHERE "Home Town" = \'Oslo\'', 'SELECT "home town" FROM t WHERE "x" = "oslo"')
    assert [score(["sql_exact"], [one], [reference])["sql_exact"]["value"] for one in answers] == [1, 0]


@pytest.mark.parametrize(
    ("wanted", "order_counts"),
    [
        ('SELECT id FROM "order"', False),
        ("SELECT id FROM [order]", False),
        ('SELECT id FROM "order" ORDER BY id', True),
        ('SELECT id FROM (SELECT id FROM "order" ORDER BY id)', False),
        ("SELECT id FROM \"order\" WHERE Town <> 'order by'", False),
    ],
)
def test_the_order_of_rows_counts_where_it_is_asked_for(wanted: str, order_counts: bool) -> None:
    reference = {"sql": wanted, "script": None, "tables": ORDERS}
    found = score(["sql_execution"], ['SELECT id FROM "order" ORDER BY id DESC'], [reference])
    assert found["sql_execution"]["value"] == (not order_counts)


@pytest.mark.parametrize(
    ("answer", "wanted", "is_right"),
    [
        ("SELECT name FROM city WHERE people >= 700", "SELECT name FROM city WHERE people > 100", True),
        ("SELECT name FROM city ORDER BY name DESC", "SELECT name FROM city", True),
        ("SELECT name FROM city", "SELECT name FROM city ORDER BY people", False),
        ("SELECT name FROM city LIMIT 1", "SELECT name FROM city", False),
        ("SELECT nothing FROM city", "SELECT name FROM city", False),
    ],
)
def test_results(answer: str, wanted: str, is_right: bool) -> None:
    reference = {"sql": wanted, "script": None, "tables": TABLES}
    assert score(["sql_execution"], [answer], [reference])["sql_execution"]["value"] == is_right


def test_rows_without_tables_do_not_count() -> None:
    references = [{"sql": "SELECT name FROM city", "script": None, "tables": tables} for tables in (TABLES, ())]
    assert score(["sql_execution"], ["SELECT name FROM city"] * 2, references)["sql_execution"]["value"] == 1


def test_a_script_makes_tables() -> None:
    script = "CREATE TABLE t (a INT); INSERT INTO t VALUES (1), (2);"
    assert run_query("SELECT SUM(a) FROM t", (), script) == [(3,)]


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE city",
        "DELETE FROM city",
        "UPDATE city SET people = 0",
        "INSERT INTO city VALUES ('x', 1)",
        "CREATE TABLE x (a)",
        "ATTACH DATABASE '{path}' AS other",
        "VACUUM INTO '{path}'",
        "PRAGMA writable_schema = 1",
        "SELECT load_extension('{path}')",
        "SELECT 1; DROP TABLE city",
        "WITH x AS (SELECT 1) DELETE FROM city",
        "SELECT hex(zeroblob(100000000))",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    ],
)
def test_hostile_queries_return_nothing_and_write_nothing(query: str, tmp_path: Path) -> None:
    assert run_query(query.format(path=tmp_path / "written"), TABLES, None) is None
    assert list(tmp_path.iterdir()) == []


def test_a_hostile_script_writes_nothing(tmp_path: Path) -> None:
    script = f"ATTACH DATABASE '{tmp_path / 'written'}' AS other; CREATE TABLE other.t (a);"
    assert run_query("SELECT 1", (), script) is None
    assert list(tmp_path.iterdir()) == []


def test_a_query_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_A_QUERY", 0.1)
    started = time.monotonic()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    assert run_query(endless, TABLES, None) is None
    assert time.monotonic() - started < 5


@given(some.text(max_size=100) | some.text(alphabet="SELECT FROMcity*'\"`[](),;-/= 0", max_size=60))
def test_any_answer_is_scored(answer: str) -> None:
    reference = {"sql": "SELECT name FROM city", "script": None, "tables": TABLES}
    assert score(["sql_execution", "sql_exact"], [answer], [reference])["sql_execution"]["value"] in (0.0, 1.0)


def test_real_rows_written_as_text(real_data: Path) -> None:
    inspection = inspect_source(real_data / "text_to_sql/wikisql_valid.jsonl")
    examples = [example for _, example in read_examples(inspection)]
    task = prepare_task("text_to_sql", inspection, examples)
    rows = [row for example in examples if (row := task.evaluation(example)) is not None]
    assert task.metrics == ("sql_exact",)
    assert len(rows) == 100
    assert all("columns: " in row.messages[1].content and "\nA:" not in row.messages[1].content for row in rows)
    answers, references = [row.shown_reference for row in rows], [row.reference for row in rows]
    assert all(answer.startswith("SELECT") for answer in answers)
    assert score(task.metrics, answers, references)["sql_exact"]["value"] == 1
