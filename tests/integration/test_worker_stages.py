"""What a worker does beside whole runs, and what can be done with a run: measure it, train on it, talk to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from real_worker import Place, RealRun, write_labelled
from transformers import AutoModelForCausalLM

import tunesmith

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("stages"))
    write_labelled(place.folder / "rows.csv", 24, labels=("down", "left", "up"))
    write_labelled(place.folder / "held.csv", 6, labels=("down",), start=60)
    return place


@pytest.fixture(scope="module")
def first(place: Place) -> RealRun:
    return place.run("first", {"model": "model", "data": {"train": "rows.csv", "validation": "held.csv"}}).done()


@pytest.fixture(scope="module")
def second(place: Place, first: RealRun) -> RealRun:
    return place.run("second", {"model": "first", "data": {"train": "rows.csv", "validation": "held.csv"}}).done()


@pytest.fixture(scope="module")
def full(place: Place, first: RealRun) -> RealRun:
    recipe = {"model": "first", "data": {"train": "rows.csv", "validation": "held.csv"}, "technique": "full"}
    return place.run("full", {**recipe, "train": {"learning_rate": 0.002}}).done()


def measured(place: Place, model: str, **request: object) -> RealRun:
    asked = {"model": model, "data": "held.csv", "max_new_tokens": 4, "samples": 2, **request}
    return place.stage("evaluate", asked).done()


def loss(run: RealRun, system: str) -> float:
    return run.systems[system]["loss"]["value"]


def test_a_base_model_is_measured_alone(place: Place) -> None:
    run = measured(place, "model", few_shot=2, rows=4)
    assert list(run.systems) == ["base", "few_shot"]
    assert run.report["verdict"] is None
    assert run.states == ["preparing", "evaluating_base", "reporting", "finished"]
    base, few_shot = (run.systems[name]["tokens"] for name in ("base", "few_shot"))
    assert few_shot["read"] > base["read"] > run.systems["base"]["generation"]["rows"]
    assert base["written"] == run.systems["base"]["generation"]["tokens"] > 0


def test_a_report_calls_the_model_what_it_is_told(place: Place) -> None:
    run = measured(place, "model", rows=4, called="ft:mine")
    assert (run.report["run"], run.report["model"]["name"]) == ("ft:mine", "ft:mine")


def test_rows_that_are_all_measured_leave_none_to_show(place: Place) -> None:
    run = measured(place, "model", few_shot=2)
    assert list(run.systems) == ["base"]
    assert "no row is left" in run.warnings["evaluate.few_shot"]


@pytest.mark.parametrize("name", ["first", "second", "full"])
def test_a_run_is_measured_with_its_labels_as_it_was_at_its_end(
    place: Place, name: str, request: pytest.FixtureRequest
) -> None:
    run: RealRun = request.getfixturevalue(name)
    again = measured(place, name)
    # held.csv has one label of three: only with the run's own label set are the prompts the same.
    for system in ("base", "tuned"):
        assert loss(again, system) == pytest.approx(loss(run, system), rel=1e-2)
    assert again.report["verdict"]["metric"] == "accuracy"


def test_a_run_on_a_run_starts_from_what_that_run_ended_with(first: RealRun, second: RealRun, full: RealRun) -> None:
    for run in (second, full):
        assert loss(run, "base") == pytest.approx(loss(first, "tuned"), rel=1e-3)
        assert loss(run, "tuned") < loss(run, "base")


def test_a_run_on_a_run_stands_on_its_own(place: Place, first: RealRun, second: RealRun, tmp_path: Path) -> None:
    pulled = place.stage("pull", {"model": "second"}).done()
    told = next(event.data for event in pulled.events if event.type == "artifact")
    assert (told["path"], told["adapter"]) == (str(second.folder.base), str(second.folder.adapter))
    tokens = torch.arange(3, 43)[None]
    base = AutoModelForCausalLM.from_pretrained(place.model, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, str(first.folder.adapter)).merge_and_unload()
    ours = AutoModelForCausalLM.from_pretrained(second.folder.base, dtype=torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens).logits, merged(tokens).logits)
    # Moved away from the run below it, it is still whole.
    elsewhere = tmp_path / "moved"
    shutil.copytree(second.folder.path, elsewhere)
    moved = measured(place, str(elsewhere))
    assert loss(moved, "tuned") == pytest.approx(loss(second, "tuned"), rel=1e-2)


def test_a_run_is_talked_to_from_another_folder(
    place: Place, second: RealRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_CACHE", str(place.folder / "cache"))
    with tunesmith.load(second.folder.path) as model:
        assert isinstance(model.generate("message 1 goes up the street", max_tokens=4), str)


def test_a_recipe_is_audited_without_training(place: Place) -> None:
    recipe = {"data": {"train": "rows.csv", "validation": "held.csv"}}
    run = place.stage("audit", {"show": 1}, recipe).done()
    audit = json.loads(run.folder.audit.read_text())
    assert audit["ok"]
    assert "".join(piece["text"] for piece in audit["shown"][0]["pieces"] if piece["trained"]).startswith("down")
    assert run.resolved["task"] == "classification"
    assert run.states == ["preparing", "auditing", "finished"]


def test_a_model_that_is_pulled_is_told_with_its_folder(place: Place) -> None:
    run = place.stage("pull", {"model": "model"}).done()
    assert [event.data for event in run.events if event.type == "artifact"] == [
        {"kind": "model", "path": str(place.model), "adapter": None}
    ]
    missing = place.stage("pull", {"model": "nosuchmodel"})
    assert missing.work() == 13
    assert missing.error["code"] == "model.unknown"


def test_a_run_is_found_in_the_folder_that_was_named(place: Place, first: RealRun) -> None:
    elsewhere = place.folder / "elsewhere"
    shutil.copytree(first.folder.path, elsewhere / "moved")
    found = place.stage("pull", {"model": "moved", "runs_folder": str(elsewhere)}).done()
    (event,) = [event for event in found.events if event.type == "artifact"]
    assert event.data["adapter"] == str(elsewhere / "moved" / "adapter")


def test_a_damaged_request_is_refused(place: Place) -> None:
    run = place.stage("evaluate", {"model": "model", "data": "held.csv", "metrics": ["nonsense"]})
    assert run.work() in (2, 10)
    assert run.error["code"]
