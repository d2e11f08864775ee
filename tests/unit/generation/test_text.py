"""Streamed text: whole characters only, cut exactly before a stop text."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer

from tunesmith.generation.text import TextStream


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def pieces_of(tokenizer, text, stop=()):
    reader = TextStream(tokenizer, stop)
    pieces = [reader.push(token) for token in tokenizer.encode(text)]
    return [*pieces, reader.finish()], reader


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40))
def test_any_text_comes_back_whole(tokenizer, text):
    pieces, _ = pieces_of(tokenizer, text)
    if not text.endswith("\ufffd"):
        assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="ab é😀", max_size=30), stops=st.lists(st.text(alphabet="ab é", min_size=1, max_size=4)))
def test_text_is_cut_before_the_stop_that_is_complete_first(tokenizer, text, stops):
    pieces, reader = pieces_of(tokenizer, text, stops)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert "".join(pieces) == reader.text == (text[: min(ends)[1]] if ends else text)
    assert reader.stopped == bool(ends)


def test_text_that_may_become_a_stop_waits_and_then_comes(tokenizer):
    reader = TextStream(tokenizer, ["END."])
    shown = [reader.push(token) for token in tokenizer.encode("xEN")]
    assert "".join(shown) == "x"
    assert "".join(reader.push(token) for token in tokenizer.encode("Dy")) == "ENDy"


def test_an_unfinished_character_is_left_out(tokenizer):
    tokens = tokenizer.encode("a😀")
    reader = TextStream(tokenizer)
    assert "".join(reader.push(token) for token in tokens[:-1]) + reader.finish() == "a"


def test_bytes_that_are_no_text_become_one_mark_and_do_not_block(tokenizer):
    stray = tokenizer.encode("😀")[-1]
    reader = TextStream(tokenizer)
    tokens = [stray, *tokenizer.encode("abc")]
    assert "".join(reader.push(token) for token in tokens) == "\ufffdabc"


def test_special_tokens_do_not_show(tokenizer):
    reader = TextStream(tokenizer)
    tokens = [1, *tokenizer.encode("hi"), 2]
    assert "".join(reader.push(token) for token in tokens) + reader.finish() == "hi"
