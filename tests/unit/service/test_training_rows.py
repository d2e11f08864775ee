"""Training files as OpenAI's fine-tuning judges them, before anything is trained."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.service.errors import ApiError
from tunesmith.service.shared.training_rows import check_training_file

CHAT = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]}


def pair(number: int, names: str = "output") -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": f"question {number}"}], "tools": []},
        f"preferred_{names}": [{"role": "assistant", "content": "good"}],
        f"non_preferred_{names}": [{"role": "assistant", "content": "bad"}],
    }


def chat(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"hello {number}"}, {"role": "assistant", "content": "hi"}]}


@pytest.fixture
def write(tmp_path: Path):
    def write(rows: list[Any], before: bytes = b"") -> Path:
        path = tmp_path / "file-0123"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_bytes(before + "\n".join(lines).encode() + b"\n")
        return path

    return write


def test_conversations_are_taken_with_and_without_a_mark(write) -> None:
    rows = [chat(number) for number in range(10)]
    for before in (b"", codecs.BOM_UTF8):
        report = check_training_file(write(rows, before), "supervised")
        assert report.problems == ()
        assert report.examples == 10
        report.require_usable("training_file")


@pytest.mark.parametrize("names", ["output", "completion"])
def test_pairs_are_taken_by_both_names(write, names: str) -> None:
    report = check_training_file(write([pair(number, names) for number in range(10)]), "dpo")
    assert (report.problems, report.examples) == ((), 10)
    assert report.to_json()["shape"] == "preference"


def test_nine_examples_are_too_few_and_enough_to_validate(write) -> None:
    path = write([chat(number) for number in range(9)])
    report = check_training_file(path, "supervised")
    assert [problem.code for problem in report.problems] == ["invalid_n_examples"]
    with pytest.raises(ApiError, match="at least 10 examples") as caught:
        report.require_usable("training_file")
    assert (caught.value.status, caught.value.detail.code) == (400, "invalid_n_examples")
    assert caught.value.detail.param == "training_file"
    assert check_training_file(path, "supervised", least_examples=1).problems == ()


def test_each_bad_row_is_told_by_its_line_and_openais_code(write) -> None:
    rows: list[Any] = [chat(number) for number in range(20)]
    rows[3] = {"messages": [{"role": "user", "content": "alone"}]}
    rows[5] = {"messages": [{"role": "nobody", "content": "x"}]}
    rows[7] = {"messages": []}
    rows[9] = '{"messages": ['
    rows[11] = {"messages": [{"role": "user"}]}
    rows[13] = {"messages": [{"role": "user", "content": "x", "odd": 1}]}
    rows[15] = "[1]"
    report = check_training_file(write(rows), "supervised")
    assert {problem.line: problem.code for problem in report.problems} == {
        4: "example_missing_assistant_message",
        6: "unrecognized_role",
        8: "missing_messages_list",
        10: "invalid_json",
        12: "message_missing_key",
        14: "message_unrecognized_key",
        16: "data_type",
    }
    with pytest.raises(ApiError) as caught:
        report.require_usable("training_file")
    assert caught.value.detail.code == "invalid_training_file"
    assert "line 4: " in caught.value.detail.message


def test_many_rows_with_one_mistake_are_counted(write) -> None:
    rows = [chat(number) for number in range(10)] + [{"messages": []}] * 7
    report = check_training_file(write(rows), "supervised")
    assert [problem.line for problem in report.problems] == [11, 12, 13, 14, 15]
    assert report.problems[0].rows == 7


def test_the_method_must_fit_the_rows(write) -> None:
    pairs = check_training_file(write([pair(number) for number in range(10)]), "supervised")
    assert [problem.code for problem in pairs.problems] == ["wrong_method"]
    chats = check_training_file(write([chat(number) for number in range(10)]), "dpo")
    assert [problem.code for problem in chats.problems] == ["wrong_method"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (b"\n\n", "unknown_format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "unknown_format"),
        ("\ufeff{}".encode("utf-16-le"), "encoding"),
        (b'{"messages": [\n{"messages"\n', "invalid_json"),
        (b'{"odd": 1}\n' * 12, "unknown_shape"),
    ],
)
def test_what_is_no_training_file_is_told_without_its_place(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "file-0123"
    path.write_bytes(content)
    report = check_training_file(path, "supervised")
    assert code in [problem.code for problem in report.problems]
    with pytest.raises(ApiError) as caught:
        report.require_usable("training_file")
    assert str(tmp_path) not in caught.value.detail.message
    assert str(tmp_path) not in json.dumps(report.to_json())


def test_copies_are_warned_of(write) -> None:
    report = check_training_file(write([CHAT] * 10), "supervised")
    assert report.problems == ()
    assert "9 examples are equal to earlier ones" in report.warnings
