"""What a user reads when data cannot be used, word for word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.errors import DataError, UsageError, from_json
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.read import read_examples

Write = Callable[..., Path]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bad_rows_are_refused_with_every_kind(write: Write, here: Path) -> None:
    rows = [f"text {n}," if n % 10 == 3 else f"text {n},x" for n in range(80)]
    rows[5] = "one,two,three"
    write("rows.csv", "text,label\n" + "\n".join(rows) + "\n")
    inspection = inspect_source("rows.csv")
    with pytest.raises(DataError) as caught:
        inspection.require_usable()
    assert str(caught.value) == (
        "rows.csv: 9 of 80 rows cannot be used\n"
        "  hint: repair the rows, or set on_bad_rows to skip to leave them out and count them\n"
        "  rows.csv:5: missing_label (8 rows): no label in column `label`; also at 15, 25, 35, 45 and 3 more\n"
        "    hint: give every row a label\n"
        "  rows.csv:7: wrong_column_count (1 row): expected 2 fields as in the header, found 3: one | two | three\n"
        "    hint: enclose fields that hold the delimiter in double quotes"
    )
    assert [problem.code for problem in caught.value.problems] == ["data.missing_label", "data.wrong_column_count"]
    assert str(from_json(caught.value.to_json())) == str(caught.value)
    assert inspection.bad_rows.lines() == [
        "missing_label: 8 rows",
        "  rows.csv:5: no label in column `label`",
        "  rows.csv:15: no label in column `label`",
        "  rows.csv:25: no label in column `label`",
        "  rows.csv:35: no label in column `label`",
        "  rows.csv:45: no label in column `label`",
        "  and 3 more",
        "wrong_column_count: 1 row",
        "  rows.csv:7: expected 2 fields as in the header, found 3: one | two | three",
    ]
    inspection.require_usable("skip")
    assert len(list(read_examples(inspection, on_bad_rows="skip"))) == 71
    # Refusal comes before the first row, not in the middle of training.
    with pytest.raises(DataError, match="9 of 80 rows"):
        read_examples("rows.csv")


def test_skipping_all_rows_is_no_way_out(write: Write, here: Path) -> None:
    write("rows.jsonl", [{"messages": [{"role": "user", "content": "Hi"}]}] * 2)
    with pytest.raises(DataError) as caught:
        inspect_source("rows.jsonl").require_usable("skip")
    assert str(caught.value).splitlines()[0] == "rows.jsonl: 2 of 2 rows cannot be used"


def test_a_torn_file_cannot_be_skipped(write: Write, here: Path) -> None:
    write("rows.json", '[{"text": "a"}, {"text": ')
    with pytest.raises(DataError) as caught:
        inspect_source("rows.json").require_usable("skip")
    assert str(caught.value) == (
        "rows.json: rows.json cannot be read to its end\n"
        "  hint: repair or cut the file; skipping would lose unseen rows\n"
        "  rows.json:2: broken_file (1 row): the JSON breaks off in row 2: parse error: premature EOF\n"
        "    hint: the rest of the file cannot be read; was it copied whole?"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "data/trian.jsonl",
            "data/trian.jsonl: no such file or folder\n  hint: did you mean data/train.jsonl?",
        ),
        (
            "date/train.jsonl",
            "date/train.jsonl: no such file or folder\n  hint: the folder date does not exist",
        ),
        (
            "data/zzz",
            "data/zzz: no such file or folder\n  hint: there is nothing with a similar name in data",
        ),
        (
            "data/header.csv",
            "data/header.csv: there is a header line and nothing below it\n  hint: add rows",
        ),
        (
            "data/empty.jsonl",
            "data/empty.jsonl: there are no rows in it\n  hint: a data set needs at least one example",
        ),
        (
            "data/odd.csv",
            "data/odd.csv: cannot tell what the rows mean from their columns: columns a, the words\n"
            "  hint: if the first line holds no column names, add one; else name the columns with a column map, "
            "for example {text: the words}",
        ),
    ],
)
def test_sources_that_cannot_be_used(write: Write, here: Path, source: str, text: str) -> None:
    write("data/train.jsonl", [{"text": "a"}])
    write("data/header.csv", "text,label\n")
    write("data/empty.jsonl", "")
    write("data/odd.csv", "a,the words\n1,many words here\n")
    with pytest.raises(DataError) as caught:
        inspect_source(source)
    assert str(caught.value) == text
    assert caught.value.exit_code == 11


def test_a_wrong_policy_is_named(write: Write) -> None:
    with pytest.raises(UsageError, match="on_bad_rows is refuse or skip: drop"):
        read_examples(write("rows.jsonl", [{"text": "a"}]), on_bad_rows="drop")
