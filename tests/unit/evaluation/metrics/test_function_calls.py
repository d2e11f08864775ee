"""Calls of functions: read in every form that templates write, and matched as the leaderboard matches them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tunesmith.evaluation.metrics import score
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.read import read_examples
from tunesmith.tasks import prepare_task
from tunesmith.tasks.found_calls import FoundCall, parse_calls

OSLO = FoundCall("weather", {"city": "Oslo", "days": 2})


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}',
        '[{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}]',
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>',
        '[TOOL_CALLS] [{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\", \\"days\\": 2}"}]',
        '{"name": "weather", "parameters": {"city": "Oslo", "days": 2}}',
        'Sure [1]:\n```json\n{"type": "function", "function": {"name": "weather", "arguments": '
        '{"city": "Oslo", "days": 2}}}\n```',
        '[weather(city="Oslo", days=2)]',
        "weather(city='Oslo', days=2)",
    ],
)
def test_forms(text: str) -> None:
    assert parse_calls(text) == (OSLO,)


@pytest.mark.parametrize(
    "text", ["", "It rains.", '{"name": 3}', "[1, 2", "f(1)", "__import__('os').system('x')", "{{{"]
)
def test_what_is_no_call(text: str) -> None:
    assert parse_calls(text) == ()


def right(answer: str, *expected: dict[str, Any]) -> float:
    calls = tuple({"name": name, "arguments": arguments} for one in expected for name, arguments in one.items())
    return float(score(["calls_match"], [answer], [calls])["calls_match"]["value"])


@pytest.mark.parametrize(
    ("answer", "expected", "is_right"),
    [
        ("[f(a=1)]", [{"f": {"a": [1, 2]}}], True),
        ("[f(a=3)]", [{"f": {"a": [1, 2]}}], False),
        ("[f(a=1.0)]", [{"f": {"a": [1]}}], True),
        ("[f(a=True)]", [{"f": {"a": [1]}}], False),
        ("[f(a='1')]", [{"f": {"a": [1]}}], False),
        ("[f(a='new york, NY')]", [{"f": {"a": ["New York NY"]}}], True),
        ("[f()]", [{"f": {"a": [1, ""]}}], True),
        ("[f()]", [{"f": {"a": [1]}}], False),
        ("[f(a=1, b=2)]", [{"f": {"a": [1]}}], False),
        ("[x.f(a=1)]", [{"x_f": {"a": [1]}}], True),
        ("[f(a={'k': 1})]", [{"f": {"a": [{"k": [1, 2]}]}}], True),
        ("[f(a={'k': 3})]", [{"f": {"a": [{"k": [1, 2]}]}}], False),
        ("[f(a=['x', 'y'])]", [{"f": {"a": [["x", "y"]]}}], True),
        ("[f(a=['y', 'x'])]", [{"f": {"a": [["x", "y"]]}}], False),
        ("[g(), f(a=1)]", [{"f": {"a": [1]}}, {"g": {}}], True),
        ("[f(a=1)]", [{"f": {"a": [1]}}, {"f": {"a": [1]}}], False),
        # One call fits both expectations, the other only one: whichever is tried first, both are found.
        ("[f(a=1), f(a=2)]", [{"f": {"a": [1, 2]}}, {"f": {"a": [1]}}], True),
        ("[f(a=1)]", [], False),
        ("No function fits.", [], True),
        ("", [], False),
    ],
)
def test_matching(answer: str, expected: list[dict[str, Any]], is_right: bool) -> None:
    assert right(answer, *expected) == is_right


@given(some.text(alphabet="{}[]():\"'\\,=name arguments\n1", max_size=200) | some.text(max_size=200))
def test_any_answer_is_scored(answer: str) -> None:
    expected = [({"name": "f", "arguments": {"a": [1]}},)]
    assert score(["calls_match", "call_names"], [answer], expected)["calls_match"]["value"] in (0.0, 1.0)


@pytest.mark.parametrize("name", ["simple", "parallel", "irrelevance"])
def test_the_learned_answers_of_real_rows_are_right(real_data: Path, name: str) -> None:
    inspection = inspect_source(real_data / f"function_calling/bfcl_{name}.jsonl")
    examples = [example for _, example in read_examples(inspection)]
    task = prepare_task("auto", inspection, examples)
    rows = [row for example in examples if (row := task.evaluation(example)) is not None]
    assert task.name == "function_calling"
    assert len(rows) == inspection.rows
    answers = [row.shown_reference for row in rows]
    assert score(task.metrics, answers, [row.reference for row in rows])["calls_match"]["value"] == 1


@pytest.mark.parametrize(
    "text", ["[" * 300_000, '{"a": ' * 50_000, '{"name": "f", "arguments": {"a": "' + "x" * 400_000]
)
def test_answers_that_never_end_are_given_up(text):
    assert parse_calls(text) == ()
