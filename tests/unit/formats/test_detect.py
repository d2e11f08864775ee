"""Which shape is told from which columns, and how a user forces another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import DataError, UsageError
from tunesmith.formats.detect import task_of_shape
from tunesmith.formats.inspect import inspect_source

Write = Callable[..., Path]
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]

PRECEDENCE: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "p", "chosen": "a", "rejected": "b", "completion": "c", "messages": MESSAGES}, "preference"),
    ({"prompt": "p", "completion": "c", "label": True, "messages": MESSAGES}, "rated"),
    ({"prompt": "p", "completion": "c", "label": "polite"}, "prompt_completion"),
    ({"prompt": "p", "response": "c", "label": True}, "prompt_completion"),
    ({"messages": MESSAGES, "text": "t", "label": "l"}, "chat"),
    ({"text": "t", "label": "l", "entities": []}, "entities"),
    ({"source": "web", "question": "q", "answer": "a"}, "question_answer"),
    ({"question": "q", "context": "c", "answer": "a", "label": "l"}, "question_answer"),
    ({"source": "s", "target": "t", "text": "s"}, "translation"),
    ({"instruction": "i", "input": "n", "output": "o", "text": "all"}, "prompt_completion"),
    ({"instruction": "i", "context": "n", "response": "o", "category": "c"}, "prompt_completion"),
    ({"input": "i", "output": "o"}, "prompt_completion"),
    ({"text": "t", "category": "c", "domain": "d"}, "text_label"),
    ({"title": "t", "text": "x", "url": "u"}, "text"),
]


@pytest.mark.parametrize(("row", "shape"), PRECEDENCE)
def test_precedence(write: Write, row: dict[str, Any], shape: str) -> None:
    assert inspect_source(write("rows.jsonl", [row])).shape == shape


def test_the_majority_of_fitting_rows_decides_and_the_choice_is_told(write: Write) -> None:
    rows: list[object] = [{"text": "t", "label": "l", "entities": ["no span"]}] * 6
    rows += [{"text": "Rome", "label": "l", "entities": [[0, 4, "city"]]}] * 4
    inspection = inspect_source(write("rows.jsonl", rows))
    assert (inspection.shape, inspection.bad_rows.count) == ("text_label", 0)
    assert inspection.warnings == (
        "read as text_label, although the columns look like entities (text=text, entities=entities): "
        "only 4 of the first 10 rows fit that",
    )


def test_plain_text_names_the_columns_it_leaves_out(write: Write) -> None:
    warnings = inspect_source(write("rows.jsonl", [{"document": "long", "summary": "short"}])).warnings
    assert warnings == ("read as plain text from `document`; not used: summary",)


@pytest.mark.parametrize(
    "row", [{"text": "t", "label": " "}, {"text": "t", "label": None}, {"text": "t", "output": ""}]
)
def test_a_column_of_labels_or_answers_with_nothing_in_it_is_refused(write: Write, row: dict[str, Any]) -> None:
    path = write("rows.jsonl", [{**row, "instruction": "i"}] * 3)
    with pytest.raises(DataError) as caught:
        inspect_source(path)
    assert (caught.value.code, caught.value.place) == ("data.empty_column", str(path))
    assert f"`{list(row)[1]}` is empty in all of the first 3 rows" in caught.value.message
    assert inspect_source(path, shape="text").good_rows == 3
    assert (
        inspect_source(write("some.jsonl", [row, {**row, "label": "a"}, {**row, "label": "b"}])).shape == "text_label"
    )


def test_rows_after_the_sample_are_checked_too(write: Write) -> None:
    rows: list[object] = [{"text": "t", "label": "l"}] * 150
    rows[140] = {"text": "t"}
    bad = inspect_source(write("rows.jsonl", rows)).bad_rows
    assert [str(row.place) for row in bad.kinds["missing_label"].first] == ["rows.jsonl:141"]


def test_a_column_map_wins_and_takes_its_column_alone(write: Write) -> None:
    path = write("rows.jsonl", [{"input": "i", "reply": "r", "text": "t"}])
    inspection = inspect_source(path, columns={"prompt": "INPUT", "completion": "reply"})
    assert (inspection.shape, inspection.columns) == ("prompt_completion", {"prompt": "input", "completion": "reply"})
    assert inspection.unused_columns == ("text",)


@pytest.mark.parametrize(
    ("columns", "shape", "code", "hint"),
    [
        ({"label": "catgory"}, None, "data.unknown_column", "did you mean `category`? the columns are text, category"),
        ({"lable": "category"}, None, "data.unknown_field", "did you mean `label`? the fields are"),
        (None, "preference", "data.missing_columns", "it needs `chosen` and `rejected`"),
        ({"label": "category", "chosen": "text"}, None, "data.unknown_shape", "no shape has all the fields"),
    ],
)
def test_wrong_wishes_are_named(
    write: Write, columns: dict[str, str] | None, shape: str | None, code: str, hint: str
) -> None:
    path = write("rows.csv", "text,category\na,b\n")
    with pytest.raises(DataError) as caught:
        inspect_source(path, columns=columns, shape=shape)
    assert caught.value.code == code
    assert (caught.value.hint or "").startswith(hint)


def test_an_unknown_shape_is_named(write: Write) -> None:
    with pytest.raises(UsageError, match="did you mean `text_label`"):
        inspect_source(write("rows.csv", "text\na\n"), shape="text_labels")
    with pytest.raises(UsageError, match="no such shape"):
        task_of_shape("poem")
