from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.engine.schedule import Clock, Shape, rate_share

SHAPES: tuple[Shape, ...] = ("cosine", "linear", "constant")


def rates(clock: Clock, shape: Shape, warmup: float) -> list[float]:
    return [rate_share(clock, step, shape, warmup) for step in range(clock.total_steps)]


def test_linear_rises_and_falls_in_straight_lines() -> None:
    assert rates(Clock(10), "linear", 0.2) == pytest.approx(
        [0.25, 0.75, 0.9375, 0.8125, 0.6875, 0.5625, 0.4375, 0.3125, 0.1875, 0.0625]
    )


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert rates(Clock(5), "cosine", 0.0)[2] == pytest.approx(0.5)
    assert rates(Clock(5), "cosine", 0.0)[0] > 0.97


def test_constant_stays() -> None:
    assert rates(Clock(8), "constant", 0.25) == pytest.approx([0.25, 0.75, 1, 1, 1, 1, 1, 1])


@given(st.sampled_from(SHAPES), st.integers(1, 200), st.floats(0.0, 1.0))
def test_no_step_is_without_a_rate(shape: Shape, steps: int, warmup: float) -> None:
    assert all(0.0 < rate <= 1.0 for rate in rates(Clock(steps), shape, warmup))


def test_a_changed_end_goes_on_from_where_the_clock_stands() -> None:
    clock = Clock(100)
    sooner = clock.change_total(40, 60)
    assert sooner.at(40) == pytest.approx(clock.at(40))
    assert sooner.at(50) == pytest.approx(0.7)
    assert sooner.at(60) == 1.0
    assert clock.change_total(40, 100) is clock
    assert clock.change_total(40, 40).at(40) == 1.0


@given(st.sampled_from(SHAPES), st.data())
def test_changed_ends_never_make_the_rate_jump(shape: Shape, data: st.DataObject) -> None:
    warmup = data.draw(st.sampled_from([0.0, 0.1, 0.5]))
    clock = Clock(data.draw(st.integers(20, 60)))
    last = 0.0
    step = 0
    falling = False
    while step < clock.total_steps:
        if data.draw(st.booleans()):
            clock = clock.change_total(step, data.draw(st.integers(step + 1, 60)))
        before, rate = clock.at(step), rate_share(clock, step, shape, warmup)
        if falling:
            assert rate <= last + 1e-12
        falling = falling or before >= warmup
        last = rate
        step += 1
    assert clock.at(step) == pytest.approx(1.0)
