"""Calls in what a model wrote, and texts that may become one."""

from __future__ import annotations

import json

import pytest

from tunesmith.inference.paths.tool_calls import calls_in, may_be_call

CALL = {"name": "weather", "arguments": {"city": "K\u00f6ln", "days": 2}}
FORMS = [
    json.dumps(CALL),
    json.dumps([CALL]),
    f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>",
    f"```json\n{json.dumps(CALL)}\n```",
    json.dumps({"name": "weather", "parameters": CALL["arguments"]}),
    json.dumps({"type": "function", "function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}),
    "[weather(city='K\u00f6ln', days=2)]",
    f"weather{json.dumps(CALL['arguments'])}",
    f"commentary to=functions.weather json{json.dumps(CALL['arguments'])}",
    "call:weather{city:K\u00f6ln,days:2}",
]


@pytest.mark.parametrize("text", FORMS)
def test_forms_of_templates_are_read(text: str) -> None:
    (call,) = calls_in(text, {"weather"})
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == CALL["arguments"]
    assert call.type == "function"


@pytest.mark.parametrize("text", [*FORMS[:4], *FORMS[-3:]])
def test_a_call_is_held_back_from_its_first_character(text: str) -> None:
    assert all(may_be_call(text[:length], {"weather"}) for length in range(len(text) + 1))


@pytest.mark.parametrize("text", ["It is warm.", "weather", "(a)", "The [list]", "`x`"])
def test_words_are_not_held_back(text: str) -> None:
    assert not may_be_call(text)
    assert calls_in(text, {"weather"}) == []


def test_functions_that_were_not_offered_are_words() -> None:
    assert calls_in(FORMS[0], {"other"}) == []
    assert calls_in(FORMS[0], frozenset()) == []


def test_several_calls_keep_their_order_and_get_names_of_their_own() -> None:
    other = {"name": "stop", "arguments": {}}
    calls = calls_in(json.dumps([CALL, other, CALL]), {"weather", "stop"})
    assert [call.function.name for call in calls] == ["weather", "stop", "weather"]
    assert len({call.id for call in calls}) == 3


def test_arguments_of_any_length_are_read() -> None:
    long = {"name": "write", "arguments": {"text": "parcel " * 10_000}}
    (call,) = calls_in(json.dumps([long]), {"write"})
    assert json.loads(call.function.arguments) == long["arguments"]


def test_a_schema_tells_a_text_of_digits_from_a_number() -> None:
    text = "<function=post><parameter=code>\n00100\n</parameter><parameter=days>\n2\n</parameter></function>"
    schema = {"properties": {"code": {"type": "string"}, "days": {"type": "integer"}}}
    (call,) = calls_in(text, {"post"}, {"post": schema})
    assert json.loads(call.function.arguments) == {"code": "00100", "days": 2}
    (call,) = calls_in(text.replace("00100", "100"), {"post"}, {"post": schema})
    assert json.loads(call.function.arguments) == {"code": "100", "days": 2}
    (call,) = calls_in(FORMS[0], {"weather"}, {"weather": {"properties": {"days": {"type": "string"}}}})
    assert json.loads(call.function.arguments) == CALL["arguments"]
