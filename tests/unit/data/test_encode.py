"""Which tokens belong to a stretch of text, told from offsets as tokenizers give them."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.data.encode import tokens_in_spans


@pytest.mark.parametrize(
    ("offsets", "span", "expected"),
    [
        # Plain: a token that reaches into the span belongs to it.
        ([(0, 3), (3, 6), (6, 9)], (3, 6), [False, True, False]),
        ([(0, 3), (3, 6), (6, 9)], (4, 7), [False, True, True]),
        # White space left out of offsets: "abc" + "  " as an empty stretch at its end.
        ([(0, 3), (5, 5), (5, 8)], (3, 5), [False, True, False]),
        ([(0, 3), (5, 5), (5, 8)], (5, 8), [False, False, True]),
        # White space before a word left out of the word's offsets.
        ([(0, 3), (4, 8)], (3, 4), [False, True]),
        # One character in three tokens.
        ([(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], (1, 2), [False, True, True, True, False]),
        ([(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], (2, 3), [False, False, False, False, True]),
        # A word mark that stands for no character belongs to the text behind it.
        ([(0, 3), (3, 3), (3, 6)], (3, 6), [False, True, True]),
        ([(0, 3), (3, 3), (3, 6)], (0, 3), [True, False, False]),
    ],
)
def test_tokens_in_spans(offsets: list[tuple[int, int]], span: tuple[int, int], expected: list[bool]) -> None:
    assert tokens_in_spans(np.array(offsets), [span]).tolist() == expected


def test_no_tokens_and_no_spans() -> None:
    assert tokens_in_spans(np.zeros((0, 2), dtype=np.int64), [(0, 3)]).tolist() == []
    assert tokens_in_spans(np.array([(0, 3)]), []).tolist() == [False]
