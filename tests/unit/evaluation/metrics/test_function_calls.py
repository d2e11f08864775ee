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
        '[TOOL_CALLS]weather[ARGS]{"city": "Oslo", "days": 2}',
        '[TOOL_CALLS]weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Oslo", "days": 2}',
        'weather{"city": "Oslo", "days": 2}',
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        '{"city": "Oslo", "days": 2}\n```<｜tool▁call▁end｜>',
        '<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Oslo", "days": 2}<｜tool▁call▁end｜>',
        '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Oslo", "days": 2}<|call|>',
        'assistant to=functions.weather<|channel|>commentary json<|message|>{"city": "Oslo", "days": 2}',
        'commentary to=functions.weather json{"city": "Oslo", "days": 2}',
        'to=functions.weathercommentary json{"city": "Oslo", "days": 2}',
        "<start_function_call>call:weather{city:<escape>Oslo<escape>,days:2}<end_function_call>",
        '<function=weather>{"city": "Oslo", "days": 2}</function>',
    ],
)
def test_forms(text: str) -> None:
    assert parse_calls(text) == (OSLO,)


def test_several_calls_of_one_answer() -> None:
    other = FoundCall("stop", {})
    assert parse_calls('[TOOL_CALLS]weather[ARGS]{"city": "Oslo", "days": 2}[TOOL_CALLS]stop[ARGS]{}') == (OSLO, other)
    assert parse_calls('weather{"city": "Oslo", "days": 2}stop{}') == (OSLO, other)
    marked = "call:weather{city:<escape>Oslo<escape>,days:2}call:stop{}"
    assert parse_calls(marked) == (OSLO, other)


def test_arguments_between_marks_are_read_with_their_lists_and_objects() -> None:
    text = "call:f{a:[1,<escape>x, y<escape>],b:{c:true,d:<escape>}<escape>},e:null}"
    assert parse_calls(text) == (FoundCall("f", {"a": [1, "x, y"], "b": {"c": True, "d": "}"}, "e": None}),)


TAGGED = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
    '<parameter=units>\n["C"]\n</parameter>\n</function>\n</tool_call>'
)


def test_tags_do_not_tell_digits_from_numbers_and_either_is_right() -> None:
    (call,) = parse_calls(TAGGED)
    assert (call.name, call.arguments) == ("weather", {"city": "Oslo", "days": 2, "units": ["C"]})
    assert right(TAGGED, {"weather": {"city": ["Oslo"], "days": [2], "units": [["C"]]}}) == 1
    assert right(TAGGED, {"weather": {"city": ["Oslo"], "days": ["2"], "units": [["C"]]}}) == 1
    assert right(TAGGED, {"weather": {"city": ["Oslo"], "days": [3], "units": [["C"]]}}) == 0
    assert parse_calls(TAGGED[: TAGGED.index("</function>")]) == ()


def test_a_name_before_an_object_that_is_a_call_is_a_word() -> None:
    assert parse_calls('json{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}') == (OSLO,)
    assert parse_calls('The set {"a": 1} and the \\frac{1}{2} of x{} are no calls.') == ()
    assert parse_calls('user{"name": "Anna"}') == (FoundCall("user", {"name": "Anna"}),)


_PIECES = [
    *("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", "to=functions.", "<|message|>"),
    *("commentary", "json", "call:f{", "<escape>", "<function=f>", "</function>", "<parameter=a>", "</parameter>"),
    *('{"a": 1}', "{", "}", "[", "]", ",", ":", "f", " ", "\n", "```", '"', "(", ")", "1", "\\", "True"),
]


@given(some.lists(some.sampled_from(_PIECES) | some.text(max_size=3), max_size=30).map("".join))
def test_no_answer_is_too_odd_to_read(answer: str) -> None:
    assert all(call.name and isinstance(call.arguments, dict) for call in parse_calls(answer))


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
    "text",
    [
        "[" * 300_000,
        '{"a": ' * 50_000,
        '{"name": "f", "arguments": {"a": "' + "x" * 400_000,
        "<function=f><parameter=a>" * 20_000,
        "call:f{" * 50_000,
        "call:f{a:[" * 30_000,
        "to=functions." * 30_000,
        "[TOOL_CALLS]" * 30_000 + "a" * 30_000,
    ],
)
def test_answers_that_never_end_are_given_up(text):
    assert parse_calls(text) == ()
