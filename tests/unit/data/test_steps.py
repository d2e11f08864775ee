from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.steps import plan_steps
from tunesmith.errors import DataError, UsageError

plans = st.builds(
    lambda lengths, tokens, seed: plan_steps(lengths, tokens_per_step=tokens, seed=seed),
    st.lists(st.integers(1, 300), min_size=1, max_size=80),
    st.integers(1, 2000),
    st.integers(-5, 2**40),
)


@st.composite
def grouped_plans(draw):
    lengths = draw(st.lists(st.integers(1, 300), min_size=1, max_size=80))
    names = draw(st.lists(st.integers(0, 9), min_size=len(lengths), max_size=len(lengths)))
    groups = np.unique(names, return_inverse=True)[1]
    return plan_steps(
        lengths, tokens_per_step=draw(st.integers(1, 2000)), seed=draw(st.integers(0, 9)), group_of_B=groups
    )


@given(plans | grouped_plans(), st.integers(0, 3))
def test_every_row_comes_exactly_once_an_epoch_and_no_step_is_empty(plan, epoch):
    first = epoch * plan.steps_per_epoch
    steps = [plan.rows_of(step) for step in range(first, first + plan.steps_per_epoch)]
    assert all(len(rows) for rows in steps)
    assert sorted(np.concatenate(steps)) == list(range(len(plan.lengths_B)))


@given(plans | grouped_plans(), st.data())
def test_steps_in_any_order_equal_steps_in_sequence(plan, data):
    total = 3 * plan.steps_per_epoch
    in_sequence = [plan.rows_of(step).tolist() for step in range(total)]
    fresh = replace(plan, _last_epoch={})
    for step in data.draw(st.lists(st.integers(0, total - 1), max_size=12)):
        assert fresh.rows_of(step).tolist() == in_sequence[step]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(1, 5000))
def test_steps_have_nearly_equal_tokens(lengths, tokens_per_step):
    plan = plan_steps(lengths, tokens_per_step=tokens_per_step, seed=3)
    total, longest = sum(lengths), max(lengths)
    assert plan.steps_per_epoch == min(len(lengths), max(1, round(total / tokens_per_step)))
    if longest * plan.steps_per_epoch > total:
        return  # rows as long as steps: then a step is a row or so
    share = total / plan.steps_per_epoch
    for step in range(plan.steps_per_epoch):
        assert abs(plan.lengths_B[plan.rows_of(step)].sum() - share) <= longest + 1


def test_rows_of_a_group_that_fits_into_a_step_meet_in_one_step():
    groups = np.arange(60) % 20
    plan = plan_steps([10] * 60, tokens_per_step=60, seed=1, group_of_B=groups)
    assert plan.steps_per_epoch == 10
    steps = [plan.rows_of(step) for step in range(20)]
    assert all(len(set(groups[rows])) == 2 for rows in steps)
    assert {tuple(sorted(set(groups[rows]))) for rows in steps[:10]} != {
        tuple(sorted(set(groups[rows]))) for rows in steps[10:]
    }


def test_a_group_as_large_as_the_data_is_drawn_like_rows():
    plan = plan_steps([10] * 60, tokens_per_step=60, seed=1, group_of_B=np.zeros(60, dtype=np.int64))
    assert plan.steps_per_epoch == 10
    assert [len(plan.rows_of(step)) for step in range(10)] == [6] * 10
    assert sorted(plan.rows_of(0).tolist()) != list(range(6))


@settings(max_examples=30)
@given(plans)
def test_asking_changes_nothing(plan):
    rows = plan.rows_of(0)
    expected = rows.tolist()
    rows[:] = -1
    assert plan.rows_of(0).tolist() == expected


def test_rows_of_a_step_are_the_same_on_every_machine_and_day():
    plan = plan_steps([5, 8, 3, 9, 4, 7, 6, 2], tokens_per_step=15, seed=7)
    assert [plan.rows_of(step).tolist() for step in range(6)] == [
        [4, 3],
        [6, 2, 1],
        [0, 5, 7],
        [7, 6, 1],
        [4, 3],
        [2, 5, 0],
    ]


def test_epochs_and_seeds_shuffle_differently():
    lengths = [10] * 50
    plan = plan_steps(lengths, tokens_per_step=100, seed=0)
    other = plan_steps(lengths, tokens_per_step=100, seed=1)
    assert plan.steps_per_epoch == 5
    assert plan.rows_of(0).tolist() != plan.rows_of(5).tolist()
    assert plan.rows_of(0).tolist() != other.rows_of(0).tolist()
    assert plan.rows_of(0).tolist() != list(range(10))


def test_epochs_are_counted_in_steps():
    plan = plan_steps([10] * 50, tokens_per_step=50, seed=0)
    assert [plan.steps_in(epochs) for epochs in (0.01, 0.5, 1, 2.04, 3)] == [1, 5, 10, 20, 30]
    assert [plan.epoch_of(step) for step in (0, 5, 10, 25)] == [0.0, 0.5, 1.0, 2.5]


def test_changed_lengths_of_the_caller_change_no_plan():
    lengths = np.array([4, 5, 6])
    plan = plan_steps(lengths, tokens_per_step=5, seed=0)
    lengths[:] = 1
    assert plan.lengths_B.tolist() == [4, 5, 6]


def test_a_million_rows_are_planned_in_a_moment():
    plan = plan_steps(np.full(1_000_000, 200), tokens_per_step=4096, seed=0)
    total = sum(len(plan.rows_of(step)) for step in range(0, plan.steps_per_epoch, 100))
    assert total == pytest.approx(1_000_000 / 100, rel=0.01)


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(DataError, match="no rows"):
        plan_steps([], tokens_per_step=10, seed=0)
    with pytest.raises(DataError, match="row 1"):
        plan_steps([3, 0], tokens_per_step=10, seed=0)
    with pytest.raises(UsageError, match="at least 1 token"):
        plan_steps([3], tokens_per_step=0, seed=0)
    with pytest.raises(UsageError, match="counted from 0"):
        plan_steps([3], tokens_per_step=1, seed=0).rows_of(-1)
