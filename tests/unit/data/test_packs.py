from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.packs import SMALLEST_SAVING, lay_out
from tunesmith.data.types import TokenRow
from tunesmith.errors import SupervisionError, UsageError


def make_row(tokens, first_trained, place="rows.jsonl:1"):
    tokens = np.array(tokens, dtype=np.int64)
    return TokenRow(tokens, np.arange(len(tokens)) >= first_trained, place)


def prompt_rows(prefix_tokens, own_lengths, first=100):
    """Rows that begin with the same tokens; each own part is different from its first token on."""
    prefix = list(range(1, prefix_tokens + 1))
    rows = []
    for at, length in enumerate(own_lengths):
        own = [first + at, *range(5000 + 100 * at, 5000 + 100 * at + length - 1)]
        rows.append((at, make_row(prefix + own, len(prefix) + length // 2)))
    return rows


@st.composite
def row_sets(draw):
    """Rows out of few different tokens and few beginnings, so that many have something in common."""
    beginnings = draw(st.lists(st.lists(st.integers(0, 2), max_size=30), min_size=1, max_size=4))
    rows = []
    for at in range(draw(st.integers(0, 25))):
        tokens = draw(st.sampled_from(beginnings)) + draw(st.lists(st.integers(0, 2), min_size=1, max_size=12))
        trained = np.array([False, *draw(st.lists(st.booleans(), min_size=len(tokens) - 1, max_size=len(tokens) - 1))])
        rows.append((1000 + 7 * at, TokenRow(np.array(tokens, dtype=np.int64), trained, f"row {at}")))
    return rows


def read_back(pack):
    """Every row of a pack as (tokens, positions), following parents, in the order of ``pack.rows``."""
    parents = {segment.parent for segment in pack.segments}
    found = []
    for at, segment in enumerate(pack.segments):
        if at in parents:
            continue
        pieces = [segment]
        while pieces[0].parent is not None:
            assert pieces[0].parent < at
            pieces.insert(0, pack.segments[pieces[0].parent])
        where = np.concatenate([np.arange(piece.start, piece.end) for piece in pieces])
        found.append(where)
    assert len(found) == len(pack.rows)
    return found


@settings(max_examples=300, deadline=None)
@given(row_sets(), st.integers(1, 120), st.sampled_from(["packed", "padded"]), st.booleans(), st.integers(1, 4))
def test_every_row_and_every_trained_token_is_there_exactly_once(rows, bound, layout, share, ranks):
    packs = lay_out(rows, tokens_per_micro_batch=bound, layout=layout, share_prefix=share, ranks=ranks)
    by_index = dict(rows)
    longest = max((len(row.token_ids_T) for _, row in rows), default=0)
    most = bound if longest <= bound else longest + bound // 2
    assert Counter(row for pack in packs for row in pack.rows) == Counter(by_index.keys())
    for pack in packs:
        assert [segment.start for segment in pack.segments] == [0, *(s.end for s in pack.segments[:-1])]
        assert pack.segments[-1].end == pack.tokens == len(pack.position_ids_T)
        for at, (index, where) in enumerate(zip(pack.rows, read_back(pack), strict=True)):
            row = by_index[index]
            assert pack.token_ids_T[where].tolist() == row.token_ids_T.tolist()
            assert pack.position_ids_T[where].tolist() == list(range(len(where)))
            mine = pack.label_rows_L == at
            trained = np.flatnonzero(row.trained_T)
            assert pack.label_positions_L[mine].tolist() == where[trained - 1].tolist()
            assert pack.labels_L[mine].tolist() == row.token_ids_T[trained].tolist()
        assert len(pack.rows) == 1 or pack.tokens <= most
        assert layout == "packed" or len(pack.rows) == len(pack.segments) == 1


@settings(max_examples=200, deadline=None)
@given(row_sets(), st.integers(1, 120))
def test_sharing_saves_tokens_in_every_group_and_shares_only_what_is_not_trained(rows, bound):
    by_index = dict(rows)
    for pack in lay_out(rows, tokens_per_micro_batch=bound, share_prefix=True):
        for at, segment in enumerate(pack.segments):
            children = [child for child in pack.segments if child.parent == at]
            if not children:
                continue
            assert len(children) > 1
            # What all rows begin with, what some of them begin with, and no third level.
            assert segment.parent is None or pack.segments[segment.parent].parent is None
            is_root = [other.parent for other in pack.segments].count(None) == 1 and segment.parent is None
            own = segment.end - segment.start
            saved, beyond = (len(children) - 1) * own, sum(own + child.end - child.start for child in children)
            if is_root:
                # It may be that of the whole step, which pays over all rows of the step or stands for one group.
                all_rows = [row.token_ids_T for _, row in rows]
                of_step = all(np.array_equal(ids[:own], all_rows[0][:own]) for ids in all_rows)
                over_step = (len(rows) - 1) * own >= SMALLEST_SAVING * sum(len(ids) for ids in all_rows)
                assert saved >= SMALLEST_SAVING * beyond or (of_step and over_step)
            else:
                assert saved >= SMALLEST_SAVING * beyond
            # No label that the prefix predicts belongs to the prefix itself: those are the rows' first own tokens.
            inside = (pack.label_positions_L >= segment.start) & (pack.label_positions_L < segment.end - 1)
            assert not inside.any()
    packs = lay_out(rows, tokens_per_micro_batch=bound, share_prefix=True)
    whole = sum(len(row.token_ids_T) for row in by_index.values())
    assert sum(pack.tokens for pack in packs) <= whole


def test_an_instruction_is_computed_once_and_each_document_behind_it_once():
    rows = []
    for document in range(3):
        for question in range(4):
            own = prompt_rows(0, [12])[0][1].token_ids_T + 7 * question
            tokens = np.concatenate([np.arange(50), 1000 * (document + 1) + np.arange(80), own])
            trained = np.zeros(len(tokens), dtype=bool)
            trained[-3:] = True
            rows.append((len(rows), TokenRow(tokens.astype(np.int64), trained, "")))
    [pack] = lay_out(rows, tokens_per_micro_batch=2048)
    assert pack.tokens == 50 + 3 * 80 + 12 * 12
    assert [segment.parent for segment in pack.segments].count(0) == 3
    halves = lay_out(rows, tokens_per_micro_batch=250)
    assert all(half.tokens <= 250 for half in halves)
    assert sum(half.tokens for half in halves) < 50 * len(halves) + 5 * 80 + 12 * 12


def test_a_long_instruction_is_computed_once_for_all_rows():
    rows = prompt_rows(570, [27] * 48)
    [pack] = lay_out(rows, tokens_per_micro_batch=2048, share_prefix=True)
    assert pack.tokens == 570 + 48 * 27
    assert len(pack.segments) == 49
    assert pack.rows == tuple(range(48))


def test_rows_that_do_not_fit_behind_one_prefix_go_behind_its_copies():
    rows = prompt_rows(570, [27] * 48)
    packs = lay_out(rows, tokens_per_micro_batch=1024, share_prefix=True)
    assert [len(pack.rows) for pack in packs] == [16, 16, 16]
    assert {pack.tokens for pack in packs} == {570 + 16 * 27}


def test_first_own_tokens_are_predicted_at_the_end_of_the_prefix():
    rows = [(at, make_row([1, 2, 3, 4, 5, 6, 10 + at, 20], 6)) for at in range(3)]
    [pack] = lay_out(rows, tokens_per_micro_batch=100, share_prefix=True)
    assert pack.token_ids_T.tolist() == [1, 2, 3, 4, 5, 6, 10, 20, 11, 20, 12, 20]
    assert pack.position_ids_T.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 6, 7]
    assert pack.label_positions_L.tolist() == [5, 6, 5, 8, 5, 10]
    assert pack.labels_L.tolist() == [10, 20, 11, 20, 12, 20]
    assert pack.label_rows_L.tolist() == [0, 0, 1, 1, 2, 2]


def test_equal_rows_keep_a_token_of_their_own():
    rows = [(at, make_row([1, 2, 3, 4], 4)) for at in range(3)]  # nothing trained
    [pack] = lay_out(rows, tokens_per_micro_batch=100, share_prefix=True)
    assert pack.token_ids_T.tolist() == [1, 2, 3, 4, 4, 4]


def test_a_short_common_beginning_is_not_worth_sharing():
    rows = prompt_rows(10, [200] * 6)
    [pack] = lay_out(rows, tokens_per_micro_batch=2048, share_prefix=True)
    assert pack.tokens == 6 * 210
    assert all(segment.parent is None for segment in pack.segments)


def test_rows_with_different_instructions_share_each_their_own():
    few = [(at, make_row([1, 2, 3, *range(10 * (at % 2), 10 * (at % 2) + 60), 900 + at, 5], 63)) for at in range(10)]
    [pack] = lay_out(few, tokens_per_micro_batch=1000, share_prefix=True)
    assert pack.tokens == 2 * 63 + 10 * 2
    assert pack.rows == (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def test_a_row_in_the_middle_does_not_part_those_around_it():
    """Rows that share much stand between rows that share less, in the order in which groups are looked for."""
    deep = [make_row([1] * 10 + [5] * 40 + [at, 9], 50) for at in (3, 4, 5)]
    around = [make_row([1] * 10 + [at, 9], 10) for at in (2, 3, 7, 8)]
    rows = list(enumerate([*around, *deep]))
    [pack] = lay_out(rows, tokens_per_micro_batch=1000, share_prefix=True)
    assert pack.tokens == 50 + 3 * 2 + 4 * 2


def test_packs_are_filled_by_best_fit():
    lengths = [6, 3, 5, 4, 2, 7, 3]
    rows = [(at, make_row([at + 1] * length, 1)) for at, length in enumerate(lengths)]
    packs = lay_out(rows, tokens_per_micro_batch=10, share_prefix=False)
    assert sorted(pack.tokens for pack in packs) == [10, 10, 10]


def test_several_ranks_get_about_as_many_tokens_each():
    lengths = np.random.default_rng(0).integers(20, 60, 40).tolist()
    rows = [(at, make_row([at + 1] * length, 1)) for at, length in enumerate(lengths)]
    for ranks in (2, 3, 5):
        packs = lay_out(rows, tokens_per_micro_batch=500, share_prefix=False, ranks=ranks)
        assert len(packs) % ranks == 0
        loads = [sum(pack.tokens for pack in packs[rank::ranks]) for rank in range(ranks)]
        assert max(loads) < 1.1 * sum(lengths) / ranks
    # One pack would do, and one rank would have nothing.
    small = lay_out(rows[:4], tokens_per_micro_batch=500, share_prefix=False, ranks=2)
    assert [len(pack.rows) for pack in small] == [2, 2]
    assert len(lay_out(rows[:1], tokens_per_micro_batch=500, share_prefix=False, ranks=2)) == 1


def test_a_row_longer_than_the_bound_gets_a_pack_of_its_own():
    rows = [(0, make_row(range(50), 40)), (1, make_row(range(50), 40)), (2, make_row([7, 8], 1))]
    packs = lay_out(rows, tokens_per_micro_batch=10, share_prefix=True)
    assert sorted(pack.rows for pack in packs) == [(0,), (1,), (2,)]


@pytest.mark.parametrize(
    ("prefix", "bound", "ranks", "computed"),
    [
        (1500, 2048, 1, 2 * 1500 + 16 * 60),  # rows fit: the bound is kept, with copies of the beginning
        (1900, 2048, 1, 8 * 1900 + 16 * 60),
        (1900, 1900 + 1024, 1, 1900 + 16 * 60),
        (2500, 2048, 1, 2500 + 16 * 60),  # no row fits: half a pack of own tokens behind one beginning
        (2500, 2048, 2, 2 * 2500 + 16 * 60),  # each rank has one
        (2500, 512, 1, 4 * 2500 + 16 * 60),
        (2500, 100, 1, 16 * 2560),  # half of such a pack has no room for what a row has of its own
    ],
)
def test_a_beginning_near_or_over_the_bound_is_shared_too(prefix, bound, ranks, computed):
    packs = lay_out(prompt_rows(prefix, [60] * 16), tokens_per_micro_batch=bound, ranks=ranks)
    assert sum(pack.tokens for pack in packs) == computed
    assert all(pack.tokens <= max(bound, prefix + 60, prefix + bound // 2) for pack in packs)


def test_documents_over_the_bound_are_each_computed_once_for_their_questions():
    rows = []
    for document in range(2):
        for _, question in prompt_rows(0, [60] * 8):
            tokens = np.concatenate([10_000 * (document + 1) + np.arange(1000), question.token_ids_T])
            rows.append((len(rows), make_row(tokens, 1000 + 30)))
    packs = lay_out(rows, tokens_per_micro_batch=1024)
    assert [pack.tokens for pack in packs] == [1000 + 8 * 60] * 2


@settings(max_examples=50, deadline=None)
@given(row_sets())
def test_the_same_rows_are_laid_out_the_same_way(rows):
    def shown(packs):
        return [(pack.rows, pack.segments, pack.token_ids_T.tolist(), pack.labels_L.tolist()) for pack in packs]

    again = [(index, TokenRow(row.token_ids_T.copy(), row.trained_T.copy(), "elsewhere")) for index, row in rows]
    assert shown(lay_out(rows, tokens_per_micro_batch=60)) == shown(lay_out(again, tokens_per_micro_batch=60))


def test_many_pairs_are_laid_out_in_a_moment():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        beginning = rng.integers(0, 1000, 30)
        rows += [make_row([*beginning, *rng.integers(0, 1000, 10)], 30) for _ in range(2)]
    packs = lay_out(list(enumerate(rows)), tokens_per_micro_batch=4096, share_prefix=True)
    assert sum(pack.tokens for pack in packs) == 400 * 50


def test_what_nothing_predicts_is_refused():
    with pytest.raises(SupervisionError, match="first token") as caught:
        lay_out([(0, make_row([1, 2], 0, "a.jsonl:7"))], tokens_per_micro_batch=10)
    assert caught.value.place == "a.jsonl:7"
    with pytest.raises(SupervisionError):
        lay_out([(0, make_row([], 0))], tokens_per_micro_batch=10)
    with pytest.raises(UsageError):
        lay_out([], tokens_per_micro_batch=0)


def test_no_rows_are_no_packs():
    assert lay_out([], tokens_per_micro_batch=10) == []
