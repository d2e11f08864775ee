"""Requests are read tolerantly, but nothing that would change the answer is overlooked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tunesmith.wire.chat import ChatRequest, ErrorBody, unsupported_fields

MINIMAL = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_content_parts_are_one_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": parts}]})
    assert request.messages[0].text() == "ab"


def test_the_newer_limit_wins_and_stop_is_a_tuple():
    request = ChatRequest.model_validate({**MINIMAL, "max_tokens": 5, "max_completion_tokens": 7, "stop": "x"})
    assert request.most_new_tokens() == 7
    assert request.stop_texts() == ("x",)
    assert ChatRequest.model_validate({**MINIMAL, "stop": ["", "y"]}).stop_texts() == ("y",)


@pytest.mark.parametrize(
    "extra", [{"user": "u"}, {"n": 1}, {"tools": []}, {"presence_penalty": 0.0}, {"response_format": {"type": "text"}}]
)
def test_harmless_fields_pass(extra):
    assert unsupported_fields(ChatRequest.model_validate({**MINIMAL, **extra})) == []


@pytest.mark.parametrize(
    "extra", [{"audio": {"voice": "x"}}, {"functions": [{"name": "f"}]}, {"modalities": ["audio"]}, {"suffix": "end"}]
)
def test_fields_that_change_the_answer_are_named(extra):
    assert unsupported_fields(ChatRequest.model_validate({**MINIMAL, **extra})) == list(extra)


@pytest.mark.parametrize("change", [{"messages": []}, {"top_p": 0}, {"max_tokens": 0}, {"temperature": -0.1}])
def test_impossible_values_are_refused(change):
    with pytest.raises(ValidationError):
        ChatRequest.model_validate({**MINIMAL, **change})


def test_an_error_has_all_four_keys():
    body = ErrorBody.model_validate({"error": {"message": "no", "type": "server_error"}})
    assert set(body.model_dump()["error"]) == {"message", "type", "param", "code"}
