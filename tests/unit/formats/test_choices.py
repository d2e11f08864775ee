from __future__ import annotations

import csv
import json

import pytest

from tunesmith.errors import DataError
from tunesmith.formats.choices import Choices, read_choices

LISTS = {"choices": ["yes", "no"], "labels": [1, 0]}
PAIRS = {"yes": 1, "no": 0}
BOTH = Choices(("yes", "no"), (True, False))


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize("form", [LISTS, PAIRS])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_both_forms_of_targets_are_read_from_every_kind_of_file(tmp_path, form, kind):
    row, path = {"question": "Is it?", "mc1_targets": form, "mc2_targets": form}, tmp_path / f"questions.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(row)
            writer.writerow([value if isinstance(value, str) else json.dumps(value) for value in row.values()])
    else:
        path.write_text(json.dumps([row] if kind == "json" else row))
    found = read_choices(path)
    assert found.targets == ("mc1", "mc2")
    assert found.questions[0].question == "Is it?"
    assert found.questions[0].targets == {"mc1": BOTH, "mc2": BOTH}
    assert len(found.sha256) == 64


@pytest.mark.parametrize(
    "answer", [{"answer": 1}, {"answer": "1"}, {"answer": "B"}, {"answer": "b"}, {"answer": "two"}, {"answerKey": "B"}]
)
def test_an_answer_is_a_number_a_letter_or_a_text(tmp_path, answer):
    found = read_choices(write(tmp_path / "q.jsonl", [{"question": "?", "choices": ["one", "two", "three"], **answer}]))
    assert found.targets == ("choice",)
    assert found.questions[0].targets["choice"].true == (False, True, False)


def test_labels_of_choices_are_the_files_own(tmp_path):
    choices = {"text": ["one", "two"], "label": ["1", "2"]}
    found = read_choices(write(tmp_path / "q.jsonl", [{"question": "?", "choices": choices, "answerKey": "2"}]))
    assert found.questions[0].targets["choice"].true == (False, True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": " "}, "there is no question"),
        ({"question": "?"}, "neither mc1_targets"),
        ({"question": "?", "choices": ["a", "b"]}, "there is no answer"),
        ({"question": "?", "choices": ["a", "b"], "answer": "c"}, "none of the choices: c"),
        ({"question": "?", "choices": ["a", "b"], "answer": 2}, "none of the choices: 2"),
        ({"question": "?", "choices": ["a", "b"], "answer": True}, "none of the choices: True"),
        ({"question": "?", "choices": ["a"], "answer": 0}, "at least two"),
        ({"question": "?", "choices": ["a", ""], "answer": 0}, "not empty"),
        ({"question": "?", "mc1_targets": {"a": 1, "b": 1}}, "exactly one true"),
        ({"question": "?", "mc2_targets": {"a": 1, "b": 1}}, "true and false"),
        ({"question": "?", "mc1_targets": {"a": 1, "b": 2}}, "0 or 1"),
        ({"question": "?", "mc1_targets": {"choices": ["a", "b"], "labels": [1]}}, "a label for each"),
        ({"question": "?", "mc1_targets": "__import__('os').abort()"}, "neither an object nor JSON"),
        ({"question": "?", "mc1_targets": "{'a': 1, 'b': 0}"}, "neither an object nor JSON"),
    ],
)
def test_rows_that_cannot_be_used_are_told_with_their_line(tmp_path, row, message):
    path = write(tmp_path / "q.jsonl", [{"question": "?", "mc1_targets": PAIRS}, row])
    with pytest.raises(DataError, match="1 row cannot be used") as caught:
        read_choices(path)
    assert caught.value.code == "choices.invalid"
    assert caught.value.problems[0].place == "q.jsonl:2"
    assert message in caught.value.problems[0].message


def test_a_file_is_scored_in_one_way(tmp_path):
    rows = [{"question": "?", "mc1_targets": PAIRS}, {"question": "?", "mc2_targets": PAIRS}]
    with pytest.raises(DataError, match="scored alike") as caught:
        read_choices(write(tmp_path / "q.jsonl", rows))
    assert caught.value.code == "choices.mixed"
    with pytest.raises(DataError, match="no such file"):
        read_choices(tmp_path / "nothing.jsonl")
