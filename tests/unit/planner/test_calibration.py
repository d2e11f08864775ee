"""Calibration: an average of measured over predicted that no single run can spoil, in a file that may be broken."""

from __future__ import annotations

import json

import pytest

from tunesmith.planner.calibration import (
    BOUNDS,
    NEWEST,
    Calibration,
    Scale,
    apply,
    calibration_path,
    key_of,
    learn,
    read_calibration,
)
from tunesmith.planner.memory import predict_memory
from tunesmith.planner.time import predict_time


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "calibration.json"


@pytest.fixture
def run(starter, data, processor, settled, path):
    """Finish a run that held ``activations`` times and took ``time`` times what was predicted without any scale."""

    def finish(activations=None, time=None, hardware=processor):
        resolved = settled("evaluate.max_new_tokens=8", hardware=hardware)
        plain = hardware.model_copy(update={"activation_scale": 1.0, "time_scale": 1.0})
        memory, seconds = (predict(starter, resolved, data, plain) for predict in (predict_memory, predict_time))
        peak = None if activations is None else round(memory.training + (activations - 1) * memory.activations)
        learn(
            hardware,
            predict_memory(starter, resolved, data, hardware),
            predict_time(starter, resolved, data, hardware),
            peak_bytes=peak,
            step_seconds=None if time is None else time * seconds.step_seconds,
            path=path,
        )
        return apply(hardware, read_calibration(path))

    return finish


def test_nothing_is_known_at_first(processor, path):
    assert read_calibration(path) == Calibration({})
    assert apply(processor, read_calibration(path)) == processor


def test_the_first_run_counts_whole(run):
    hardware = run(activations=1.2, time=0.8)
    assert hardware.activation_scale == pytest.approx(1.2, rel=1e-3)
    assert hardware.time_scale == pytest.approx(0.8)


def test_later_runs_count_less_and_scales_do_not_pile_up(run):
    """The second prediction has the scale already; what it is held against is the one without."""
    hardware = run(activations=1.1, time=0.8)
    hardware = run(activations=1.2, time=1.0, hardware=hardware)
    assert hardware.activation_scale == pytest.approx(1.1 + NEWEST * 0.1, rel=1e-3)
    assert hardware.time_scale == pytest.approx(0.8 + NEWEST * 0.2)


def test_a_scaled_prediction_meets_what_was_measured(run, starter, data, settled, processor):
    resolved = settled("evaluate.max_new_tokens=8", hardware=processor)
    before = predict_memory(starter, resolved, data, processor)
    hardware = run(activations=1.2)
    after = predict_memory(starter, resolved, data, hardware)
    assert after.training == pytest.approx(before.training + 0.2 * before.activations, rel=1e-3)


def test_what_was_not_measured_stays(run):
    assert run(time=2.0).activation_scale == 1.0
    assert run(activations=1.1).time_scale == pytest.approx(2.0)


@pytest.mark.parametrize(("ratio", "kept"), [(100.0, BOUNDS["time"][1]), (1e-6, BOUNDS["time"][0])])
def test_a_run_that_was_disturbed_is_held_between_bounds(run, ratio, kept):
    assert run(time=ratio).time_scale == kept


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_ratio_that_is_none_changes_nothing(ratio):
    assert Scale(1.1, 3).after(ratio, "time") == Scale(1.1, 3)


def test_machines_are_told_apart(run, processor, path):
    run(time=2.0)
    other = processor.model_copy(update={"name": "Another"})
    assert apply(other, read_calibration(path)).time_scale == 1.0
    assert key_of(other) != key_of(processor)
    run(time=3.0, hardware=other)
    assert apply(processor, read_calibration(path)).time_scale == pytest.approx(2.0)


def test_a_peak_of_loading_says_nothing_about_activations(starter, data, processor, settled, path):
    """With all layers checkpointed and long answers, the cache of answers is what takes the most."""
    resolved = settled("train.activation_checkpointing=true", hardware=processor)
    memory = predict_memory(starter, resolved, data, processor)
    assert memory.peak > memory.training
    time = predict_time(starter, resolved, data, processor)
    found = learn(processor, memory, time, peak_bytes=memory.peak, step_seconds=None, path=path)
    assert found.scale(processor, "memory") == Scale()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"version": 1}',
        '{"version": 1, "machines": {"x": 3}}',
        '{"version": 1, "machines": {"x": {"time": {"scale": "fast"}}}}',
        '{"version": 9, "machines": {"x": {"time": {"scale": 2, "runs": 1}}}}',
    ],
)
def test_a_broken_file_is_as_good_as_none(path, content, run):
    path.parent.mkdir()
    path.write_text(content, encoding="utf-8")
    assert read_calibration(path) == Calibration({})
    assert run(time=2.0).time_scale == pytest.approx(2.0)


def test_scales_of_a_file_are_held_between_bounds_too(processor, path):
    path.parent.mkdir()
    kinds = {"time": {"scale": 1e9, "runs": 2}, "memory": {"scale": 1.5, "runs": 0}}
    path.write_text(json.dumps({"version": 1, "machines": {key_of(processor): kinds}}), encoding="utf-8")
    found = read_calibration(path)
    assert found.scale(processor, "time") == Scale(BOUNDS["time"][1], 2)
    assert found.scale(processor, "memory") == Scale()


def test_a_cache_that_cannot_be_written_is_no_error(starter, data, processor, settled, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    resolved = settled(hardware=processor)
    memory, time = (predict(starter, resolved, data, processor) for predict in (predict_memory, predict_time))
    path = blocked / "calibration.json"
    found = learn(processor, memory, time, peak_bytes=None, step_seconds=2 * time.step_seconds, path=path)
    assert found.scale(processor, "time").scale == pytest.approx(2.0)


def test_it_lies_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    assert calibration_path() == tmp_path / "calibration.json"
