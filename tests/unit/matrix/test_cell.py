"""What is taken out of a run's report, how gains are put together, and the file that keeps them."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from example_report import make_report
from hypothesis import given
from hypothesis import strategies as st
from matrix_cases import cell, failed, gain, matrix_of, outcome, ran

from tunesmith.errors import DataError
from tunesmith.matrix.cell import Gain, Matrix, outcome_of, over_seeds, read_matrix
from tunesmith.runs.atomic import write_json


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return make_report(rows=60, steps=80)


def with_verdict(report: dict[str, Any], **verdict: Any) -> dict[str, Any]:
    return {**report, "primary_metric": verdict["metric"], "verdict": {"rows": 60, "decided": True, **verdict}}


def test_the_numbers_are_those_of_the_report(report) -> None:
    found = outcome_of(report)
    systems = {system["name"]: system for system in report["systems"]}
    assert (found.metric, found.rows) == ("accuracy", 60)
    for name in ("base", "few_shot", "tuned"):
        assert getattr(found, name) == systems[name]["metrics"]["accuracy"]["value"]
    assert (found.base_loss, found.tuned_loss) == tuple(systems[name]["loss"]["value"] for name in ("base", "tuned"))
    verdict = report["verdict"]
    assert found.gain == Gain(value=verdict["difference"], low=verdict["low"], high=verdict["high"])
    assert (found.steps, found.tokens, found.tokens_per_second) == (80, 491_520, 312.4)
    assert (found.total_seconds, found.peak_memory_bytes) == (412.0, 2_900_000_000)
    assert (found.trained_parameters, found.total_parameters) == (4_884_480, 139_399_488)


def test_a_validation_has_the_seconds_of_training_before_it(report) -> None:
    found = outcome_of(report)
    seconds = [point["seconds"] for point in report["curves"]["train"]]
    losses = [point["loss"] for point in report["curves"]["validation"]]
    assert [when for when, _ in found.validation] == pytest.approx([0.0, sum(seconds[:40]), sum(seconds)])
    assert [loss for _, loss in found.validation] == losses
    assert found.training_seconds == pytest.approx(sum(seconds))


def test_points_without_numbers_are_left_out_of_the_curve(report) -> None:
    curves = {
        "train": [{"step": 1, "seconds": None}, {"step": 2, "seconds": 3.0}],
        "validation": [{"step": 1, "loss": 1.5}, {"step": 2, "loss": None}, {"step": 9, "loss": 1.0}],
    }
    found = outcome_of({**report, "curves": curves})
    assert found.validation == ((0.0, 1.5),)
    assert found.training_seconds == 3.0


def test_memory_of_several_processes_is_that_of_one_on_average(report) -> None:
    cost = {**report["cost"], "rank_memory_bytes": [3_000_000_000, 2_000_000_000]}
    assert outcome_of({**report, "cost": cost}).process_memory_bytes == 2_500_000_000
    assert outcome_of({**report, "cost": {**cost, "rank_memory_bytes": None}}).process_memory_bytes == 2_900_000_000


def test_a_gain_is_positive_where_a_loss_falls(report) -> None:
    found = outcome_of(with_verdict(report, metric="loss", difference=-0.5, low=-0.75, high=-0.25))
    assert found.gain == Gain(value=0.5, low=0.25, high=0.75)
    assert found.gain.decided
    losses = {system["name"]: system["loss"]["value"] for system in report["systems"]}
    assert (found.base, found.tuned) == (losses["base"], losses["tuned"])


def test_a_gain_is_negative_where_a_loss_rises(report) -> None:
    found = outcome_of(with_verdict(report, metric="loss", difference=0.5, low=0.25, high=0.75))
    assert found.gain == Gain(value=-0.5, low=-0.75, high=-0.25)


def test_a_metric_that_is_better_when_it_is_lower_is_turned_around(report) -> None:
    tuned = {"name": "tuned", "metrics": {"word_errors": {"value": 0.1, "higher_is_better": False}}}
    changed = {**report, "systems": [tuned]}
    found = outcome_of(with_verdict(changed, metric="word_errors", difference=-0.2, low=-0.3, high=0.1))
    assert found.gain == Gain(value=0.2, low=-0.1, high=0.3)
    assert not found.gain.decided


@pytest.mark.parametrize("verdict", [None, {"metric": "accuracy", "difference": None, "low": None, "high": None}])
def test_without_a_verdict_there_is_no_gain(report, verdict) -> None:
    assert outcome_of({**report, "verdict": verdict}).gain is None


def test_a_report_without_a_metric_is_about_its_loss(report) -> None:
    found = outcome_of({**report, "primary_metric": None, "verdict": None})
    assert found.metric == "loss"
    assert found.tuned == found.tuned_loss


def test_rows_that_are_too_few_for_the_report_decide_nothing_here(report) -> None:
    """The report says "undecided ... too few to tell" of fewer than ten rows, whatever the interval is."""
    few = with_verdict(report, metric="accuracy", difference=0.5, low=0.25, high=0.75, rows=5, decided=False)
    found = outcome_of(few)
    assert found.gain == Gain(value=0.5, low=0.25, high=0.75, enough=False)
    assert not found.gain.decided


def test_an_interval_around_zero_is_of_rows_enough_and_undecided(report) -> None:
    """Only an interval that would decide shows that the rows were too few for the report."""
    found = outcome_of(with_verdict(report, metric="accuracy", difference=0.1, low=-0.1, high=0.3, decided=False))
    assert found.gain == Gain(value=0.1, low=-0.1, high=0.3, enough=True)
    assert not found.gain.decided


@pytest.mark.parametrize(
    ("found", "better", "worse"),
    [
        (gain(0.3), True, False),
        (gain(-0.3), False, True),
        (gain(0.01), False, False),
        (gain(0.3, enough=False), False, False),
        (gain(-0.3, enough=False), False, False),
    ],
)
def test_better_and_worse_need_an_interval_on_one_side_and_rows_enough(found, better, worse) -> None:
    assert (found.is_better, found.is_worse, found.decided) == (better, worse, better or worse)


@pytest.mark.parametrize(
    ("low", "high", "decided"),
    [
        (0.0, 0.2, False),
        (-0.2, 0.0, False),
        (0.0, 0.0, False),
        (-0.1, 0.2, False),
        (0.01, 0.2, True),
        (-0.2, -0.1, True),
    ],
)
def test_an_interval_that_touches_zero_decides_nothing(low, high, decided) -> None:
    assert Gain(value=(low + high) / 2, low=low, high=high).decided is decided


def test_no_seed_has_no_gain_and_one_seed_its_own() -> None:
    assert over_seeds([]) is None
    lopsided = Gain(value=0.2, low=0.1, high=0.5)
    assert over_seeds([lopsided]) == lopsided


def test_several_seeds_have_the_error_of_rows_and_of_seeds() -> None:
    found = over_seeds([gain(0.1, 0.2), gain(0.2, 0.2), gain(0.6, 0.4)])
    assert found is not None
    rows = (0.2**2 + 0.2**2 + 0.4**2) / 3
    seeds = 4.30**2 * statistics.variance([0.1, 0.2, 0.6]) / 3
    half = math.sqrt(rows + seeds)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3 - half, 0.3 + half))


@pytest.mark.parametrize(("seeds", "factor"), [(2, 12.71), (3, 4.30), (5, 2.78), (10, 2.26), (11, 2.26), (14, 2.26)])
def test_few_seeds_count_by_students_factor(seeds, factor) -> None:
    """Of so few numbers the spread itself is hardly known, so that their interval is wide."""
    values = [0.1 * at for at in range(seeds)]
    found = over_seeds([gain(value, 0.0) for value in values])
    assert found is not None
    expected = factor * statistics.stdev(values) / math.sqrt(seeds)
    assert (found.high - found.value, found.value - found.low) == pytest.approx((expected, expected))


def test_one_seed_of_too_few_rows_makes_all_of_them_undecided() -> None:
    found = over_seeds([gain(0.3), gain(0.3, enough=False)])
    assert found is not None
    assert found.low > 0
    assert not found.decided
    every = over_seeds([gain(0.3), gain(0.3)])
    assert every is not None
    assert every.decided


def test_seeds_that_agree_do_not_make_rows_more() -> None:
    found = over_seeds([gain(0.3, 0.05)] * 5)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.25, 0.35))


GAINS = st.lists(st.builds(gain, st.floats(-10, 10), st.floats(0.001, 10)), min_size=2, max_size=6)


@given(gains=GAINS)
def test_an_interval_over_seeds_is_never_narrower_than_the_rows_allow(gains) -> None:
    found = over_seeds(gains)
    assert found is not None
    squares = [((one.high - one.low) / 2) ** 2 for one in gains]
    assert (found.high - found.low) / 2 >= math.sqrt(statistics.fmean(squares)) * (1 - 1e-9)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(statistics.fmean(one.value for one in gains))
    turned = over_seeds(list(reversed(gains)))
    assert turned is not None
    assert (turned.value, turned.low, turned.high) == pytest.approx((found.value, found.low, found.high))


CURVE = ((0.0, 2.0), (10.0, 1.5), (20.0, 1.0), (30.0, 1.2))


@pytest.mark.parametrize(
    ("loss", "seconds"),
    [(2.5, 0.0), (2.0, 0.0), (1.75, 5.0), (1.5, 10.0), (1.25, 15.0), (1.0, 20.0), (0.99, None)],
)
def test_seconds_to_a_loss_lie_between_two_validations(loss, seconds) -> None:
    found = outcome(base_loss=2.0, validation=CURVE).seconds_to(loss)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_before_the_first_validation_the_untuned_model_counts() -> None:
    later = CURVE[1:]
    assert outcome(base_loss=2.0, validation=later).seconds_to(1.75) == pytest.approx(5.0)
    assert outcome(base_loss=None, validation=later).seconds_to(1.75) == 10.0, "nothing is known from before"
    assert outcome(base_loss=2.0, validation=()).seconds_to(1.75) is None


def test_the_first_time_counts_where_a_loss_rises_in_between() -> None:
    found = outcome(base_loss=3.0, validation=((10.0, 1.0), (20.0, 2.0), (30.0, 0.5)))
    assert found.seconds_to(1.0) == pytest.approx(10.0)
    assert found.seconds_to(0.75) == pytest.approx(20 + 10 * 1.25 / 1.5)


def test_a_loss_that_the_untuned_model_has_takes_no_time() -> None:
    assert outcome(base_loss=1.0, validation=((10.0, 2.0), (20.0, 0.5))).seconds_to(1.5) == 0.0


@given(
    losses=st.lists(st.floats(0.1, 10), min_size=1, max_size=8),
    base=st.floats(0.1, 10),
    wanted=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
)
def test_a_lower_loss_never_comes_earlier(losses, base, wanted) -> None:
    curve = tuple((10.0 * at, loss) for at, loss in enumerate(losses, start=1))
    found = outcome(base_loss=base, validation=curve)
    lower, higher = (found.seconds_to(loss) for loss in sorted(wanted))
    if lower is not None:
        assert higher is not None
        assert 0 <= higher <= lower + 1e-9
        assert lower <= curve[-1][0] + 1e-9
    if min(losses) <= min(wanted):
        assert lower is not None


def test_numbers_of_a_column_are_those_of_its_kind_and_scenario() -> None:
    matrix = matrix_of(
        ran("routing", "lora", steps=1),
        ran("routing", "lora", seed=1, steps=2),
        ran("tunes", "lora", steps=3),
        ran("problems", "lora", kind="pooled", steps=4),
        ran("problems", "lora", kind="alone", steps=5),
        ran("routing", "full", steps=6),
        failed("routing", "lora", "no rows", seed=2),
    )
    assert [one.steps for one in matrix.of("quality", "lora")] == [1, 2, 3]
    assert [one.steps for one in matrix.of("quality", "lora", "routing")] == [1, 2]
    assert [one.steps for one in matrix.of("pooled", "lora")] == [4]
    assert [one.steps for one in matrix.of("alone", "lora")] == [5]
    assert matrix.of("quality", "dora") == []


def test_a_cell_has_run_where_it_ended_well_with_these_settings() -> None:
    matrix = matrix_of(ran("routing", "lora"), failed("tunes", "lora", "no rows"))
    assert matrix.has(cell("routing", "lora"))
    assert not matrix.has(cell("routing", "lora", settings=("task=text", "train.budget=2m")))
    assert not matrix.has(cell("tunes", "lora")), "it failed"
    assert not matrix.has(cell("routing", "lora", seed=1))


def test_a_new_result_takes_the_place_of_the_cells_last_one() -> None:
    matrix = matrix_of(failed("tunes", "lora", "no rows"), ran("routing", "lora"))
    after = matrix.with_result(ran("tunes", "lora"))
    assert len(after.results) == 2
    assert after.has(cell("tunes", "lora"))
    assert after.failed("quality", "lora", "tunes") == []
    assert matrix.failed("quality", "lora", "tunes"), "the one before is as it was"


def test_a_failure_is_found_by_what_failed() -> None:
    matrix = matrix_of(failed("tunes", "lora", "no rows"), failed("problems", "lora", "no disk", kind="pooled"))
    (quality,) = matrix.failed("quality", "lora", "tunes")
    (pooled,) = matrix.failed("pooled", "lora", "problems")
    assert quality.failure is not None
    assert quality.failure.message == "no rows"
    assert pooled.failure is not None
    assert pooled.failure.message == "no disk"
    assert matrix.failed("quality", "lora", "problems") == []


def written(matrix: Matrix, folder: Path) -> Path:
    write_json(folder / "matrix.json", matrix.model_dump(mode="json"))
    return folder / "matrix.json"


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(
    value=NUMBERS,
    validation=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3),
    ranks=st.lists(st.integers(0, 2**53), max_size=3),
    message=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_a_matrix_comes_back_from_its_file_as_it_was(tmp_path_factory, value, validation, ranks, message) -> None:
    matrix = matrix_of(
        ran("routing", "lora", base=value, validation=tuple(validation), rank_memory_bytes=tuple(ranks), gain=None),
        failed("tunes", "lora", message, hint=message),
        data={"routing": {"train": "ab" * 32}},
        price={"price_per_hour": 1.5, "currency": "EUR", "price_date": "2026-11-01", "price_source": "an offer"},
    )
    assert read_matrix(written(matrix, tmp_path_factory.getbasetemp())) == matrix


@pytest.mark.parametrize(
    "path",
    [(), ("mode",), ("results", 0), ("results", 0, "outcome"), ("results", 0, "cell"), ("results", 1, "failure")],
)
def test_what_later_versions_add_is_kept(tmp_path, path) -> None:
    plain = matrix_of(ran("routing", "lora"), failed("tunes", "lora", "no rows")).model_dump(mode="json")
    part: Any = plain
    for key in path:
        part = part[key]
    part["added_later"] = 7
    write_json(tmp_path / "matrix.json", plain)
    assert read_matrix(tmp_path / "matrix.json").model_dump(mode="json") == plain


def test_a_later_format_is_refused(tmp_path) -> None:
    path = written(matrix_of(ran("routing", "lora")), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(DataError, match="later version") as caught:
        read_matrix(path)
    assert (caught.value.code, caught.value.place) == ("data.matrix", str(path))
    assert "2" in (caught.value.value or "")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", "{}", '{"format": "one"}', '{"format": null}', '{"format": 1}']
)
def test_a_file_that_is_no_matrix_is_refused(tmp_path, text) -> None:
    path = tmp_path / "matrix.json"
    path.write_text(text)
    with pytest.raises(DataError, match="no matrix") as caught:
        read_matrix(path)
    assert (caught.value.code, caught.value.place) == ("data.matrix", str(path))
    assert caught.value.hint


def test_a_file_that_is_not_there_is_told_so(tmp_path) -> None:
    with pytest.raises(DataError) as caught:
        read_matrix(tmp_path / "nowhere.json")
    assert caught.value.code == "data.matrix"
    assert "No such file" in (caught.value.value or "")


def test_the_part_that_is_broken_is_named(tmp_path) -> None:
    plain = matrix_of(ran("routing", "lora")).model_dump(mode="json")
    plain["results"][0]["outcome"]["steps"] = "many"
    write_json(tmp_path / "matrix.json", plain)
    with pytest.raises(DataError) as caught:
        read_matrix(tmp_path / "matrix.json")
    assert "results.0.outcome.steps" in (caught.value.value or "")
