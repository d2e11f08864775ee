"""What a recipe may ask of a run: budgets, curves, examples, weights, and what happens to bad rows."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from real_worker import Place, write_chat, write_labelled

from tunesmith.pipeline.data import load_data
from tunesmith.recipe.schema import DataSpec


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("options"))
    write_labelled(place.folder / "rows.csv", 24)
    write_labelled(place.folder / "more.csv", 6, labels=("left",), start=50)
    write_labelled(place.folder / "held.csv", 8, start=20)
    write_chat(place.folder / "rows.jsonl", 16)
    return place


@pytest.mark.slow
def test_a_budget_of_time_is_kept_and_told(place: Place) -> None:
    run = place.run("timed", {"data": {"train": "rows.csv"}, "train": {"budget": "12s", "epochs": 5000}})
    started = time.monotonic()
    run.done()
    assert time.monotonic() - started < 24
    assert "steps" in run.warnings["training.deadline"]
    assert run.report["cost"]["steps"] >= 1
    assert run.resolved["train.budget_seconds"] == 12
    assert run.report["cost"]["wall_seconds"]["total"] < 18


def test_a_budget_of_tokens_is_kept(place: Place) -> None:
    run = place.run(
        "counted", {"data": {"train": "rows.csv"}, "train": {"budget": "5k tokens", "epochs": "auto"}}
    ).done()
    assert run.report["cost"]["tokens"] == pytest.approx(5000, abs=600)


def test_a_learning_curve_has_three_points_and_is_not_trained_twice(place: Place) -> None:
    run = place.run("curve", {"data": {"train": "rows.csv"}, "evaluate": {"learning_curve": True}}).done()
    points = run.report["learning_curve"]
    assert [point["fraction"] for point in points] == [0.25, 0.5, 1.0]
    assert points[-1]["loss"] == run.systems["tuned"]["loss"]["value"]
    assert all(point["metric"] is not None for point in points)
    kept = (run.folder.path / "learning_curve" / "0.5" / "point.json").stat().st_mtime_ns
    run.folder.manifest.unlink()
    run.done()
    assert run.report["learning_curve"] == points
    assert (run.folder.path / "learning_curve" / "0.5" / "point.json").stat().st_mtime_ns == kept


def test_weighted_sources_and_a_validation_source_of_its_own(place: Place) -> None:
    sources = [{"path": "rows.csv", "weight": 0.5}, {"path": "more.csv", "weight": 2}]
    data = {"train": sources, "validation": "held.csv"}
    run = place.run("mixed", {"data": data, "evaluate": {"rows": 5, "few_shot": 5}}).done()
    manifest = json.loads(run.folder.manifest.read_text())
    assert manifest["counts"]["train_rows"] == 12 + 2 * 6
    assert manifest["counts"]["held_out_rows"] == 5
    assert manifest["task"]["labels"] == ["down", "left", "up"]
    assert run.report["data"]["overlap"] == 4  # rows 20 to 23
    assert run.systems["few_shot"]["label"] == "Base, 5 examples in the prompt"


def test_a_weight_repeats_and_leaves_out_rows(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    spec = DataSpec.model_validate({"train": [{"path": "rows.csv", "weight": 2.5}], "validation": "held.csv"})
    seen = Counter(str(place) for place, _ in load_data(spec, 0).train())
    assert sorted(Counter(seen.values()).items()) == [(2, 12), (3, 12)]


def test_bad_and_long_rows_are_left_out_and_counted(place: Place) -> None:
    long = [{"role": "user", "content": "a b " * 600}, {"role": "assistant", "content": '{"queue": "a"}'}]
    good = (place.folder / "rows.jsonl").read_text()
    (place.folder / "rough.jsonl").write_text(f"{good}no json\n{json.dumps({'messages': long})}\n")
    data = {"train": "rough.jsonl", "validation": "rows.jsonl", "on_bad_rows": "skip", "on_long_rows": "skip"}
    run = place.run("rough", {"data": data}).done()
    train = run.report["data"]["train"]
    assert (train["used_rows"], train["skipped_rows"]) == (16, 2)


def test_a_long_row_is_cut_where_that_was_asked(place: Place) -> None:
    turns = [{"role": role, "content": f"{number} b " * 20} for number in range(6) for role in ("user", "assistant")]
    (place.folder / "long.jsonl").write_text(
        (place.folder / "rows.jsonl").read_text() + json.dumps({"messages": turns})
    )
    data = {"train": "long.jsonl", "validation": "rows.jsonl", "on_long_rows": "truncate"}
    run = place.run("cut", {"data": data}).done()
    assert run.report["data"]["train"]["used_rows"] == 17
    assert any("cut" in message or "truncat" in message for message in run.report["warnings"]), run.report["warnings"]


def test_a_family_that_was_not_tested_goes_through_one_row_at_a_time(tmp_path: Path) -> None:
    place = Place.make(tmp_path, "stablelm")
    write_labelled(tmp_path / "rows.csv", 16)
    run = place.run("other", {"data": {"train": "rows.csv", "validation": 0.25}}).done()
    assert "one at a time" in run.warnings["train.layout"]
    assert run.systems["tuned"]["loss"]["value"] < run.systems["base"]["loss"]["value"]
    assert any("one at a time" in message for message in run.report["warnings"])
