from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.trees import lay_out_groups
from tunesmith.data.types import TokenRow
from tunesmith.errors import SupervisionError, UsageError


def row(beginning, own, place="rows:1"):
    tokens = np.array([*beginning, *own], dtype=np.int64)
    return TokenRow(tokens, np.arange(len(tokens)) >= len(beginning), place)


@st.composite
def groups(draw):
    """Questions that begin alike, each with answers; few different tokens, so that much is shared by chance too."""
    shared = draw(st.lists(st.integers(0, 2), min_size=1, max_size=8))
    found, number = [], 0
    for _ in range(draw(st.integers(0, 6))):
        question = [*shared, *draw(st.lists(st.integers(0, 2), max_size=5))]
        answers = draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=4))
        found.append([(100 + number + at, row(question, answer)) for at, answer in enumerate(answers)])
        number += len(answers)
    return found


def places_of(pack):
    """Where the tokens of each row lie, following parents."""
    parents = {segment.parent for segment in pack.segments}
    found = []
    for at, segment in enumerate(pack.segments):
        if at not in parents:
            line = [segment]
            while line[0].parent is not None:
                line.insert(0, pack.segments[line[0].parent])
            found.append(np.concatenate([np.arange(one.start, one.end) for one in line]))
    return found


@settings(max_examples=200, deadline=None)
@given(groups(), st.integers(1, 60))
def test_every_row_and_label_is_there_once_whatever_is_shared(found, bound):
    packs = lay_out_groups(found, tokens_per_pack=bound)
    by_index = {index: one for group in found for index, one in group}
    assert Counter(index for pack in packs for index in pack.rows) == Counter(by_index.keys())
    for pack in packs:
        assert [segment.start for segment in pack.segments] == [0, *(one.end for one in pack.segments[:-1])]
        assert pack.segments[-1].end == pack.tokens
        for at, (index, places) in enumerate(zip(pack.rows, places_of(pack), strict=True)):
            one, mine = by_index[index], pack.label_rows_L == at
            trained = np.flatnonzero(one.trained_T)
            assert pack.token_ids_T[places].tolist() == one.token_ids_T.tolist()
            assert pack.position_ids_T[places].tolist() == list(range(len(places)))
            assert pack.label_positions_L[mine].tolist() == places[trained - 1].tolist()
            assert pack.labels_L[mine].tolist() == one.token_ids_T[trained].tolist()
        of_group = [{index for index, _ in group} for group in found]
        assert len(pack.rows) <= 1 or pack.tokens <= bound or any(set(pack.rows) == one for one in of_group)


def test_what_all_and_what_a_group_begins_with_goes_through_once():
    found = [[(10 * q + a, row([1, 2, 3, 40 + q, 50 + q], [60 + a])) for a in range(3)] for q in range(2)]
    (pack,) = lay_out_groups(found, tokens_per_pack=100)
    assert pack.tokens == 3 + 2 * (2 + 3)
    assert [segment.parent for segment in pack.segments] == [None, 0, 1, 1, 1, 0, 5, 5, 5]


def test_rows_that_cannot_be_scored_are_refused():
    with pytest.raises(SupervisionError, match="rows:1"):
        lay_out_groups([[(0, row([], [1]))]], tokens_per_pack=10)
    with pytest.raises(SupervisionError):
        lay_out_groups([[(0, row([1], []))]], tokens_per_pack=10)
    with pytest.raises(UsageError):
        lay_out_groups([], tokens_per_pack=0)
