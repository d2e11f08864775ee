from __future__ import annotations

import numpy as np
import pytest
from tiny_training import MemoryRows

from tunesmith.data.grouping import group_beginnings, rows_that_begin_alike
from tunesmith.data.types import TokenRow


def row(*tokens: int, answer: int = 9) -> TokenRow:
    ids = np.array([*tokens, answer], dtype=np.int64)
    return TokenRow(ids, np.arange(len(ids)) == len(ids) - 1, "rows.jsonl:1")


def test_questions_on_one_document_are_a_group_and_a_short_instruction_makes_none() -> None:
    rows = [
        row(1, 2, 50, 51, 52, 53, 7),
        row(1, 2, 60, 61, 62, 63, 7),
        row(1, 2, 50, 51, 52, 53, 8),
        row(1, 2, 70, 71, 72, 73, 8),
        row(1, 2, 60, 61, 62, 63, 8, 8),
    ]
    assert rows_that_begin_alike(MemoryRows(rows)).tolist() == [0, 1, 0, 2, 1]


def test_rows_that_have_an_instruction_alone_in_common_make_no_groups() -> None:
    assert rows_that_begin_alike(MemoryRows([row(*range(30), own) for own in (5, 4, 6)])).tolist() == [0, 1, 2]


@pytest.mark.parametrize("instruction_tokens", [0, 100, 250, 400, 1000])
def test_an_instruction_before_documents_joins_none_of_them(instruction_tokens: int) -> None:
    rows = []
    for question in range(3):
        for document in range(10):
            own = range(1000 * (document + 1), 1000 * (document + 1) + 300)
            rows.append(row(*[8] * instruction_tokens, *own, 20_000 + question))
    assert rows_that_begin_alike(MemoryRows(rows)).tolist() == [*range(10)] * 3


def test_the_answer_does_not_count_and_neither_does_an_empty_beginning() -> None:
    rows = [row(1, 2, 3, answer=4), row(1, 2, 3, answer=5), row(answer=3), row(answer=3)]
    assert rows_that_begin_alike(MemoryRows(rows)).tolist() == [0, 0, 1, 2]


def test_the_longest_beginning_of_a_group_counts_what_all_begin_with_too() -> None:
    rows = [
        row(1, 2, 50, 51, 52, 7),
        row(1, 2, 60, 61, 62, 63, 7),
        row(1, 2, 50, 51, 52, 8),
        row(1, 2, 60, 61, 62, 63, 8),
    ]
    assert group_beginnings(MemoryRows(rows)) == (6, 5 + 6)
    assert group_beginnings(MemoryRows(rows[:2])) == (0, 0)
    assert group_beginnings(MemoryRows([])) == (0, 0)
