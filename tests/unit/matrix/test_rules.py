"""Yes, no or undecided from measurements, and where an edition of the page is contradicted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrix_cases import GIB, failed, gain, matrix_of, ran, shared

from tunesmith.matrix.cell import Gain, Matrix
from tunesmith.matrix.plan import load_layout
from tunesmith.matrix.rules import RULES, Mark, derive_marks, gains_of, tells_apart

LAYOUT = load_layout()


def mark(matrix: Matrix, row: str, column: str) -> Mark:
    (found,) = (one for one in derive_marks(LAYOUT, matrix) if (one.row, one.column) == (row, column))
    return found


def answer(matrix: Matrix, row: str, column: str) -> str:
    return mark(matrix, row, column).answer


def test_the_whole_table_is_there_and_nothing_is_decided_before_anything_ran() -> None:
    marks = derive_marks(LAYOUT, matrix_of())
    assert [(one.row, one.column) for one in marks] == [(row.id, name) for row in LAYOUT.rows for name in LAYOUT.marks]
    assert {(one.answer, one.number, one.contradicted) for one in marks} == {("not measured", "", ())}


def test_the_editions_marks_are_those_of_the_layout() -> None:
    marks = {(one.row, one.column): one for one in derive_marks(LAYOUT, matrix_of())}
    for row in LAYOUT.rows:
        for at, name in enumerate(LAYOUT.marks):
            assert (marks[row.id, name].given, marks[row.id, name].later) == (row.given[at], row.later[at])


def test_every_kind_of_row_has_its_rule_in_words() -> None:
    assert set(RULES) == {row.kind for row in LAYOUT.rows}


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([gain(0.3)], "yes"),
        ([gain(0.3), gain(0.1)], "yes"),
        ([gain(0.3), gain(0.01)], "undecided"),
        ([gain(0.3), gain(-0.3)], "no"),
        ([gain(0.01), gain(-0.3)], "no"),
        ([gain(-0.3)], "no"),
        ([Gain(value=0.1, low=0.0, high=0.2)], "undecided"),
        ([Gain(value=-0.1, low=-0.2, high=0.0)], "undecided"),
        ([gain(0.3, enough=False)], "undecided"),
        ([gain(0.3), gain(0.3, enough=False)], "undecided"),
        ([gain(0.3), gain(-0.3, enough=False)], "undecided"),
    ],
)
def test_quality_is_yes_where_every_scenario_of_the_row_gains(gains, expected) -> None:
    scenarios = ["routing", "ner", "translation"]
    matrix = matrix_of(*(ran(name, "lora", gain=one) for name, one in zip(scenarios, gains, strict=False)))
    assert answer(matrix, "classify", "lora") == expected
    assert answer(matrix, "classify", "qlora") == "not measured"
    assert answer(matrix, "answer", "lora") == "not measured", "these are scenarios of another row"


def test_the_number_of_quality_names_every_scenario_with_its_interval() -> None:
    matrix = matrix_of(ran("routing", "lora", gain=gain(0.3, 0.05)), ran("ner", "lora", gain=gain(-0.02, 0.125)))
    assert mark(matrix, "classify", "lora").number == "routing +0.300 (+0.250 to +0.350); ner -0.020 (-0.145 to +0.105)"


def test_scenarios_without_numbers_decide_nothing() -> None:
    matrix = matrix_of(
        ran("routing", "lora", gain=gain(0.3)), failed("ner", "lora", "no rows"), ran("translation", "lora", gain=None)
    )
    assert answer(matrix, "classify", "lora") == "yes"
    assert answer(matrix_of(ran("routing", "lora", gain=None)), "classify", "lora") == "not measured"


def test_seeds_that_disagree_decide_nothing() -> None:
    agreeing = matrix_of(*(ran("routing", "lora", seed=at, gain=gain(0.3)) for at in range(3)))
    assert answer(agreeing, "classify", "lora") == "yes"
    values = [0.9, 0.0, 0.0]
    disagreeing = matrix_of(*(ran("routing", "lora", seed=at, gain=gain(one)) for at, one in enumerate(values)))
    assert answer(disagreeing, "classify", "lora") == "undecided"
    assert gains_of(LAYOUT, disagreeing, "classify", "lora")["routing"].value == pytest.approx(0.3)


RATIOS = [
    (0.5, "yes"),
    (0.95, "yes"),
    (0.954, "yes"),  # shown as 0.95
    (0.96, "undecided"),
    (1.0, "undecided"),
    (1.04, "undecided"),
    (1.046, "no"),  # shown as 1.05
    (1.05, "no"),
    (1.5, "no"),
]
POOLED_RATIOS = [
    (0.5, "yes"),
    (0.9, "yes"),
    (0.904, "yes"),  # shown as 0.90
    (0.91, "undecided"),
    (0.94, "undecided"),
    (0.946, "no"),  # shown as 0.95
    (0.95, "no"),
    (1.0, "no"),
    (1.5, "no"),
]


@pytest.mark.parametrize(("ratio", "expected"), RATIOS)
def test_cost_is_machine_time_of_a_token_against_full_tuning(ratio, expected) -> None:
    matrix = matrix_of(
        ran("routing", "lora", tokens_per_second=1000 / ratio), ran("routing", "full", tokens_per_second=1000.0)
    )
    found = mark(matrix, "cost", "lora")
    assert (found.answer, found.number) == (expected, f"{ratio:.2f}")


@pytest.mark.parametrize(("ratio", "expected"), RATIOS)
def test_memory_is_the_peak_of_a_process_against_full_tuning(ratio, expected) -> None:
    matrix = matrix_of(
        ran("routing", "lora", peak_memory_bytes=round(100 * GIB * ratio)),
        ran("routing", "full", peak_memory_bytes=100 * GIB),
    )
    assert answer(matrix, "memory", "lora") == expected


@pytest.mark.parametrize(("trained", "expected"), [(10, "yes"), (999_999, "yes"), (1_000_000, "no"), (1_000_001, "no")])
def test_fewer_parameters_are_fewer_than_those_of_full_tuning(trained, expected) -> None:
    matrix = matrix_of(
        ran("routing", "lora", trained_parameters=trained), ran("routing", "full", trained_parameters=1_000_000)
    )
    found = mark(matrix, "parameters", "lora")
    assert (found.answer, found.number) == (expected, f"{trained / 1_000_000:.4f}")


@pytest.mark.parametrize("row", ["cost", "memory", "parameters"])
def test_without_the_other_side_nothing_is_measured(row) -> None:
    assert answer(matrix_of(ran("routing", "lora")), row, "lora") == "not measured"
    one_failed = matrix_of(ran("routing", "lora"), failed("routing", "full", "no memory"))
    assert answer(one_failed, row, "lora") == "not measured"
    apart = matrix_of(ran("routing", "lora"), ran("tunes", "full"))
    assert answer(apart, row, "lora") == "not measured", "runs of two scenarios are no pair"
    seeds = matrix_of(ran("routing", "lora", seed=1), ran("routing", "full", seed=0))
    assert answer(seeds, row, "lora") == "not measured", "nor are those of two seeds"


def test_a_seed_is_held_against_the_same_seed() -> None:
    full = [ran("routing", "full", seed=at, tokens_per_second=speed) for at, speed in enumerate([1000.0, 4000.0])]
    assert mark(matrix_of(*full, ran("routing", "lora", tokens_per_second=2000.0)), "cost", "lora").number == "0.50"
    second = ran("routing", "lora", seed=1, tokens_per_second=2000.0)
    assert mark(matrix_of(*full, second), "cost", "lora").number == "2.00"


def test_the_median_run_decides() -> None:
    scenarios = {"routing": 500.0, "tunes": 2000.0, "problems": 4000.0}
    results = [ran(name, "full", tokens_per_second=1000.0) for name in scenarios]
    results += [ran(name, "lora", tokens_per_second=speed) for name, speed in scenarios.items()]
    assert mark(matrix_of(*results), "cost", "lora").number == "0.50"


@pytest.mark.parametrize(("ratio", "expected"), POOLED_RATIOS)
def test_a_techniques_shared_memory_is_held_against_one_process(ratio, expected) -> None:
    matrix = matrix_of(
        shared("lora", 100 * ratio),
        ran("problems", "lora", kind="alone", peak_memory_bytes=100 * GIB),
        shared("ddp", 1),
        ran("problems", "lora", peak_memory_bytes=1),
    )
    assert answer(matrix, "pooled", "lora") == expected


@pytest.mark.parametrize("column", ["deepspeed", "zero"])
@pytest.mark.parametrize(("ratio", "expected"), POOLED_RATIOS)
def test_cut_state_is_held_against_two_processes_of_data_parallelism(column, ratio, expected) -> None:
    matrix = matrix_of(shared(column, 100 * ratio), shared("ddp", 100))
    found = mark(matrix, "pooled", column)
    assert (found.answer, found.number) == (expected, f"{ratio:.2f}")
    assert answer(matrix, "parameters", column) == "no"


@pytest.mark.parametrize("column", ["deepspeed", "zero"])
@pytest.mark.parametrize(("ratio", "expected"), RATIOS)
def test_memory_of_a_column_about_several_processes_is_that_of_its_shared_runs(column, ratio, expected) -> None:
    assert answer(matrix_of(shared(column, 100 * ratio), shared("ddp", 100)), "memory", column) == expected


def test_memory_of_two_processes_is_that_of_one_on_average() -> None:
    uneven = ran("problems", "zero", kind="pooled", peak_memory_bytes=12 * GIB, rank_memory_bytes=(12 * GIB, 4 * GIB))
    assert mark(matrix_of(uneven, shared("ddp", 10)), "pooled", "zero").number == "0.80"


def test_columns_of_several_processes_look_at_their_shared_runs_only() -> None:
    slow = matrix_of(
        ran("routing", "deepspeed", tokens_per_second=1.0),
        ran("routing", "ddp", tokens_per_second=1000.0),
        shared("deepspeed", 1, tokens_per_second=2000.0),
        shared("ddp", 1, tokens_per_second=1000.0),
    )
    assert mark(slow, "cost", "deepspeed").number == "0.50"
    assert answer(matrix_of(shared("deepspeed", 1)), "cost", "deepspeed") == "not measured"
    assert answer(matrix_of(shared("lora", 1)), "pooled", "lora") == "not measured"


@given(ratio=st.floats(0.85, 1.1) | st.floats(0.001, 3.0))
def test_the_number_that_is_shown_leads_to_the_answer(ratio) -> None:
    """Who applies the rule to the number that stands beside an answer gets that answer."""
    matrix = matrix_of(
        ran("routing", "lora", tokens_per_second=1000 / ratio, peak_memory_bytes=round(1000 * GIB * ratio)),
        ran("routing", "full", tokens_per_second=1000.0, peak_memory_bytes=1000 * GIB),
        shared("lora", 1000 * ratio),
        ran("problems", "lora", kind="alone", peak_memory_bytes=1000 * GIB),
    )
    for row, yes, no in (("cost", 0.95, 1.05), ("memory", 0.95, 1.05), ("pooled", 0.9, 0.95)):
        found = mark(matrix, row, "lora")
        shown = float(found.number)
        assert shown == pytest.approx(ratio, abs=0.00501)
        assert found.answer == ("yes" if shown <= yes else "no" if shown >= no else "undecided")


def test_an_edition_is_contradicted_where_the_answer_is_decided_and_another() -> None:
    fewer = matrix_of(ran("routing", "lora", trained_parameters=1), ran("routing", "full", trained_parameters=2))
    assert mark(fewer, "parameters", "lora").contradicted == ("given",)
    worse = matrix_of(ran("routing", "lora", gain=gain(-0.3)))
    assert mark(worse, "classify", "lora").contradicted == ("given", "later")
    better = matrix_of(ran("routing", "lora", gain=gain(0.3)))
    assert mark(better, "classify", "lora").contradicted == ()
    both = matrix_of(shared("dora", 200), ran("problems", "dora", kind="alone", peak_memory_bytes=GIB))
    assert mark(both, "pooled", "dora").contradicted == ("given",)


@given(answer=st.sampled_from(["yes", "no", "undecided", "not measured"]), given_=st.booleans(), later=st.booleans())
def test_what_is_not_decided_contradicts_nobody(answer, given_, later) -> None:
    found = Mark("row", "column", answer, "", given=given_, later=later)
    said = {"yes": True, "no": False}
    wrong = {
        name for name, edition in (("given", given_), ("later", later)) if answer in said and edition != said[answer]
    }
    assert set(found.contradicted) == wrong


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (gain(0.3, 0.03), gain(0.3499, 0.04), False),
        (gain(0.3, 0.03), gain(0.3501, 0.04), True),
        (gain(0.3, 0.2), gain(0.45, 0.01), False),
        (gain(0.3, 0.0), gain(0.3, 0.0), False),
        (gain(-0.5, 0.1), gain(0.5, 0.1), True),
        (gain(-0.5, 0.1, enough=False), gain(0.5, 0.1), False),
        (gain(-0.5, 0.1), gain(0.5, 0.1, enough=False), False),
    ],
)
def test_gains_are_told_apart_beyond_both_intervals_together(one, other, apart) -> None:
    assert tells_apart(one, other) is apart


@given(one=st.builds(gain, st.floats(-5, 5), st.floats(0, 5)), other=st.builds(gain, st.floats(-5, 5), st.floats(0, 5)))
def test_telling_apart_goes_both_ways_and_nothing_differs_from_itself(one, other) -> None:
    assert tells_apart(one, other) == tells_apart(other, one)
    assert not tells_apart(one, one)
