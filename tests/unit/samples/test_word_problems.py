"""The bundled sample of word problems keeps the promises of its README, and is what its generator writes."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from tunesmith.evaluation.metrics.final_number import final_number
from tunesmith.samples import sample_folder
from tunesmith.tasks.answers import answer_form

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
FILES = {"train.jsonl": 480, "heldout.jsonl": 100}
FILLINGS = {"train.jsonl": 4, "heldout.jsonl": 2}
EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
# Operands that a problem has as words and not as digits.
SPOKEN = {"week": 7, "Half": 2, "as many again": 2}


class Equation(NamedTuple):
    left: int
    operation: str
    right: int
    result: int


class Row(NamedTuple):
    question: str
    answer: str

    @property
    def equations(self) -> list[Equation]:
        found = EQUATION.findall(self.answer)
        return [Equation(int(left), sign, int(right), int(result)) for left, sign, right, result in found]

    @property
    def frame(self) -> str:
        return re.sub(r"\b[A-Z][a-z]+\b|\d+", "_", self.question)

    @property
    def numbers(self) -> list[int]:
        return [int(digits) for digits in re.findall(r"\d+", self.question)]


def read(name: str) -> list[Row]:
    text = (sample_folder("word_problems") / name).read_bytes().decode("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert all(list(row) == ["question", "answer"] for row in rows)
    return [Row(**row) for row in rows]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())


def shingles(text: str, size: int) -> list[tuple[str, ...]]:
    found = words(text)
    return [tuple(found[start : start + size]) for start in range(len(found) - size + 1)]


def is_true(equation: Equation) -> bool:
    left, operation, right, result = equation
    if operation == "/":
        return left == right * result
    return result == {"+": left + right, "-": left - right, "*": left * right}[operation]


def test_the_folder_holds_what_the_readme_says() -> None:
    readme = (sample_folder("word_problems") / "README.md").read_text(encoding="utf-8")
    for name, rows in FILES.items():
        assert f"| `{name}` | {rows} | {rows // FILLINGS[name]}, each filled" in readme
        assert len(read(name)) == rows
    example = next(line for line in readme.splitlines() if line.startswith("{"))
    assert Row(**json.loads(example)) in read("train.jsonl")


@pytest.mark.parametrize("name", FILES)
def test_files_are_lines_without_oddities(name: str) -> None:
    raw = (sample_folder("word_problems") / name).read_bytes()
    assert raw.isascii()
    assert raw.endswith(b"}\n")
    assert b"\r" not in raw
    assert b"\n\n" not in raw
    for row in read(name):
        assert row.question == " ".join(row.question.split())
        assert not set("{}") & set(row.question + row.answer)


@pytest.mark.parametrize("name", FILES)
def test_an_answer_has_a_line_per_step_and_then_the_result(name: str) -> None:
    for row in read(name):
        *steps, last = row.answer.split("\n")
        assert 1 <= len(steps) <= 2, row
        assert all(len(EQUATION.findall(step)) == 1 and step.count("=") == 1 for step in steps), row
        assert all(len(step.split()) <= 18 and (step[0].isupper() or step[0].isdigit()) for step in steps), row
        assert all(step.endswith(".") for step in steps), row
        assert last == f"#### {row.equations[-1].result}"
        assert final_number(row.answer) == row.equations[-1].result


@pytest.mark.parametrize("name", FILES)
def test_equations_are_true(name: str) -> None:
    wrong = [equation for row in read(name) for equation in row.equations if not is_true(equation)]
    assert not wrong


@pytest.mark.parametrize("name", FILES)
def test_numbers_are_small_and_never_below_two(name: str) -> None:
    table = range(2, 13)
    for row in read(name):
        for left, operation, right, result in row.equations:
            assert min(left, right, result) >= 2, row
            if operation in "+-":
                assert max(left, right, result) < 100, row
            else:
                assert right in table, row
                assert (left if operation == "*" else result) in table, row


@pytest.mark.parametrize("name", FILES)
def test_the_numbers_of_a_problem_are_those_its_answer_needs(name: str) -> None:
    for row in read(name):
        given = Counter(row.numbers)
        given += Counter(equation.result for equation in row.equations[:-1])
        spoken = Counter(number for word, number in SPOKEN.items() if word in row.question)
        used = Counter(side for equation in row.equations for side in (equation.left, equation.right))
        assert not given - used, row
        assert not used - given - spoken, row


@pytest.mark.parametrize("name", FILES)
def test_steps_and_operations_are_balanced(name: str) -> None:
    rows = read(name)
    operations = Counter(equation.operation for row in rows for equation in row.equations)
    assert all(0.2 <= operations[sign] / operations.total() <= 0.3 for sign in "+-*/"), operations
    one_step = [row for row in rows if len(row.equations) == 1]
    assert len(one_step) == len(rows) / 2
    single = Counter(row.equations[0].operation for row in one_step)
    assert min(single[sign] for sign in "+-*/") >= 0.2 * len(one_step), single
    pairs = Counter(tuple(equation.operation for equation in row.equations) for row in rows)
    assert len(pairs) >= 18, pairs


@pytest.mark.parametrize("name", FILES)
def test_problems_are_of_varied_but_bounded_length(name: str) -> None:
    lengths = [len(row.question.split()) for row in read(name)]
    assert min(lengths) >= 12
    assert max(lengths) <= 60
    assert len(set(lengths)) > 15


@pytest.mark.parametrize("name", FILES)
def test_articles_never_stand_before_numbers(name: str) -> None:
    for row in read(name):
        assert not re.search(r"\b[Aa]n? \d", row.question + " " + row.answer), row


def test_no_problem_comes_twice() -> None:
    questions = [row.question for name in FILES for row in read(name)]
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("name", FILES)
def test_every_stretch_of_rows_has_every_frame_once_in_mixed_order(name: str) -> None:
    rows = read(name)
    frames = len(rows) // FILLINGS[name]
    turns = [[row.frame for row in rows[start : start + frames]] for start in range(0, len(rows), frames)]
    assert all(len(set(turn)) == frames for turn in turns)
    assert all(set(turn) == set(turns[0]) for turn in turns)
    assert len({tuple(turn) for turn in turns}) == len(turns)
    kinds = [[equation.operation for equation in row.equations] for row in rows]
    assert sum(left == right for left, right in pairwise(kinds)) < 0.2 * len(rows)


@pytest.mark.parametrize("name", FILES)
def test_fillings_of_a_frame_have_different_results(name: str) -> None:
    results = {(row.frame, row.equations[-1].result) for row in read(name)}
    assert len(results) == len(read(name))


def test_held_out_problems_share_no_sentence_frames_with_training() -> None:
    assert not {row.frame for row in read("train.jsonl")} & {row.frame for row in read("heldout.jsonl")}
    seen = {shingle for row in read("train.jsonl") for shingle in shingles(row.question, 5)}
    held_out = [shingle for row in read("heldout.jsonl") for shingle in shingles(row.question, 5)]
    shared = [shingle for shingle in held_out if shingle in seen]
    assert len(held_out) > 1000
    assert len(shared) <= 0.01 * len(held_out), shared


def test_the_form_of_the_answers_is_recognised() -> None:
    assert all(answer_form([row.answer for row in read(name)]) == "number" for name in FILES)


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("make_word_problems")


def run(generator: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["make_word_problems.py", *options])
    code: int = generator.main()
    return code


def test_the_files_are_what_the_generator_writes(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sample_folder("word_problems").samefile(generator.FOLDER)
    assert run(generator, monkeypatch, "--check") == 0


def test_the_check_fails_on_missing_and_changed_files_and_writes_nothing(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(generator, "FOLDER", tmp_path)
    assert run(generator, monkeypatch, "--check") == 1
    assert not list(tmp_path.iterdir())
    assert run(generator, monkeypatch) == 0
    assert run(generator, monkeypatch, "--check") == 0
    changed = (tmp_path / "heldout.jsonl").read_bytes() + b"{}\n"
    (tmp_path / "heldout.jsonl").write_bytes(changed)
    assert run(generator, monkeypatch, "--check") == 1
    assert (tmp_path / "heldout.jsonl").read_bytes() == changed


@pytest.mark.parametrize(
    ("left", "operation", "right"),
    [
        (60, "+", 40),
        (20, "-", 19),
        (20, "-", 30),
        (120, "-", 30),
        (13, "*", 4),
        (4, "*", 13),
        (25, "/", 6),
        (52, "/", 4),
    ],
)
def test_the_generator_refuses_numbers_outside_of_the_readme(
    generator: ModuleType, left: int, operation: str, right: int
) -> None:
    with pytest.raises(generator.UnfitError):
        generator.calculate(left, operation, right)
