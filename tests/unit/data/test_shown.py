"""Pieces of a row, joined, are the row; each has the mark of its tokens."""

from __future__ import annotations

import numpy as np
import pytest
from chat_templates import STYLES, styled_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.render import render
from tunesmith.data.shown import pieces_of
from tunesmith.data.types import TokenRow
from tunesmith.formats.examples import Conversation, Document, Message

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\u2581"), min_size=1, max_size=20)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(text=TEXT)
def test_pieces_joined_are_the_row(style: str, text: str) -> None:
    tokenizer = styled_tokenizer(style)
    row = render(tokenizer, Document(text))
    pieces = pieces_of(tokenizer, TokenRow(row.token_ids_T, row.trained_T, "rows.jsonl:1"))
    decoded = tokenizer.decode(row.token_ids_T.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert "".join(piece.text for piece in pieces) == decoded


def test_characters_of_several_tokens_are_one_piece() -> None:
    tokenizer = styled_tokenizer("chatml")
    turns = Conversation((Message("user", "é 漢😀"), Message("assistant", "漢😀")))
    row = render(tokenizer, turns)
    pieces = pieces_of(tokenizer, TokenRow(row.token_ids_T, row.trained_T, "rows.jsonl:1"))
    assert "\ufffd" not in "".join(piece.text for piece in pieces)
    assert [piece.text for piece in pieces if piece.trained] == ["漢", "😀", "<|im_end|>"]


def test_an_empty_row_has_no_pieces() -> None:
    empty = TokenRow(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool), "rows.jsonl:1")
    assert pieces_of(styled_tokenizer("chatml"), empty) == ()
