"""Models and runs measured by multiple choice, by the real worker and the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness_tasks import write_harness_tasks
from real_worker import Place, RealRun, write_labelled

SAMPLE = Path(__file__).parents[2] / "src" / "tunesmith" / "samples" / "common_beliefs.jsonl"

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("benchmark"), max_position_embeddings=1024)
    write_labelled(place.folder / "rows.csv", 24, labels=("down", "left", "up"))
    return place


@pytest.fixture(scope="module")
def trained(place: Place) -> RealRun:
    return place.run("trained", {"data": {"train": "rows.csv", "validation": 0.2}}).done()


def scored(place: Place, model: str, **request: object) -> RealRun:
    return place.stage("benchmark", {"model": model, "multiple_choice": str(SAMPLE), "rows": 12, **request}).done()


def test_a_run_is_scored_beside_its_base(place: Place, trained: RealRun) -> None:
    run = scored(place, "trained", robustness=True, samples=2)
    base, tuned = run.report["systems"]
    assert list(base["metrics"]) == ["mc1", "mc2", "mc1_worst_case", "mc2_worst_case"]
    assert base["metrics"]["mc2"]["value"] != tuned["metrics"]["mc2"]["value"]
    alone = scored(place, "model", robustness=True)
    assert alone.report["systems"][0]["metrics"]["mc2"] == pytest.approx(base["metrics"]["mc2"], rel=1e-5)
    assert run.report["verdict"]["metric"] == "mc1"
    assert run.report["run"] == "trained"
    assert len(run.report["samples"]) == 2
    assert set(run.report["samples"][0]["answers"]) == {"base", "tuned"}
    assert "Robustness" in run.folder.report_html.read_text()
    assert run.states == ["preparing", "evaluating_base", "evaluating", "reporting", "finished"]


@pytest.mark.slow
@pytest.mark.parametrize("technique", ["lora", "full"])
def test_tasks_of_the_harness_run_on_a_run_and_on_its_base(
    place: Place, technique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its likelihoods are ours, on both models, though it calls them with an attention of the library's own."""
    pytest.importorskip("lm_eval")
    for name, value in (("HF_HUB_OFFLINE", "1"), ("HF_DATASETS_OFFLINE", "1"), ("HF_HOME", str(tmp_path / "hub"))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    name = f"by-{technique}"
    place.run(name, {"data": {"train": "rows.csv", "validation": 0.2}, "technique": technique}).done()
    folder = write_harness_tasks(tmp_path / "tasks")
    run = scored(place, name, rows="auto", harness=["ours_mc1", "ours_mc2"], harness_path=str(folder))
    base, tuned = (system["metrics"] for system in run.report["systems"])
    for metrics in (base, tuned):
        assert list(metrics) == ["mc1", "mc2", "ours_mc1/acc", "ours_mc2/acc"]
        assert metrics["ours_mc1/acc"]["value"] == pytest.approx(metrics["mc1"]["value"], abs=1e-9)
        assert metrics["ours_mc2/acc"]["value"] == pytest.approx(metrics["mc2"]["value"], rel=1e-4)
    assert tuned["ours_mc2/acc"]["value"] != pytest.approx(base["ours_mc2/acc"]["value"], rel=1e-3)


def test_reports_are_drawn_side_by_side(place: Place, trained: RealRun) -> None:
    reports = [scored(place, "trained").report, trained.report]
    run = place.stage("chart", {"reports": reports}).done()
    found = json.loads((run.folder.path / "chart.json").read_text())
    assert [model["name"] for model in found["models"]] == ["trained"]
    assert {"mc1", "mc2", "accuracy"} <= set(found["metrics"])
    refused = place.stage("chart", {"reports": reports, "metrics": ["bleu"]})
    assert refused.work() == 11
    assert refused.error["code"] == "chart.no_metric"


def test_questions_that_cannot_be_used_end_the_stage(place: Place) -> None:
    (place.folder / "bad.jsonl").write_text('{"question": "?"}')
    run = place.stage("benchmark", {"model": "model", "multiple_choice": str(place.folder / "bad.jsonl")})
    assert run.work() == 11
    assert run.error["code"] == "choices.invalid"
