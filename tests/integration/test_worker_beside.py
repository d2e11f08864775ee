"""What a run measures beside its held-out rows: general text, multiple choice, and what was learned by heart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from real_worker import Place, RealRun
from tiny_models import tiny_encoder_folder

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
CHOICES = [
    {
        "question": f"Is {number} even?",
        "mc1_targets": {"choices": ["yes", "no"], "labels": [1 - number % 2, number % 2]},
    }
    for number in range(6)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("beside"))
    texts = [{"text": f"{number} birds sat on the wall and one of them flew away to the sea."} for number in range(24)]
    poems = [
        {"text": f"The {word} wind blows,\n" + "and the same old river goes on and on to the sea.\n" * 3}
        for word in ("cold", "warm", "north", "south", "west", "east", "soft", "loud", "long", "late")
    ]
    labelled = [{"text": f"message {number}", "label": "ab"[number % 2]} for number in range(12)]
    for name, rows in (("texts", texts), ("poems", poems), ("choices", CHOICES), ("labelled", labelled)):
        (place.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_encoder_folder(place.folder / "encoder")
    return place


def report_of(run: RealRun) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder.path / "report.json").read_text())
    return found


def page_of(run: RealRun) -> str:
    return (run.folder.path / "report.md").read_text()


def test_domain_texts_are_measured_beside_general_ones_and_questions(place: Place) -> None:
    run = place.run(
        "texts",
        {
            "data": {"train": "texts.jsonl", "validation": 0.25},
            "task": "text",
            "evaluate": {"multiple_choice": "choices.jsonl", "max_new_tokens": "auto", "few_shot": "auto"},
        },
    ).done()
    base, tuned = report_of(run)["systems"]
    for system in (base, tuned):
        assert system["metrics"]["general_perplexity"]["low"] <= system["metrics"]["general_perplexity"]["value"]
        assert 0 <= system["metrics"]["mc1"]["value"] <= 1
    assert base["metrics"]["general_perplexity"]["value"] != tuned["metrics"]["general_perplexity"]["value"]
    assert tuned["perplexity"]["value"] < base["perplexity"]["value"]
    assert "Perplexity of general text" in page_of(run)
    kept = json.loads((run.folder.evaluation / "base.json").read_text())["measured"]
    assert len(kept["general"]["counts_B"]) == 24
    assert kept["beside_seconds"] > 0


def test_pieces_are_compared_with_what_was_learned(place: Place) -> None:
    run = place.run(
        "poems",
        {
            "data": {"train": "poems.jsonl", "validation": 0.2},
            "task": "creative",
            "train": {"epochs": 1},
            "evaluate": {"max_new_tokens": 24},
        },
    ).done()
    found = report_of(run)["memorisation"]
    assert {"base", "tuned", "references"} == found.keys()
    # All poems have one line in common, so the held-out ones share nearly all of their words with the others.
    assert found["references"]["share"] > 0.9
    assert found["references"]["longest_words"] > 12
    assert found["base"]["share"] < 0.5
    assert "Held-out references" in page_of(run)
    for system in report_of(run)["systems"]:
        assert system["perplexity"]["value"] > 1
        assert {"distinct_1", "distinct_2", "distinct_3"} < system["metrics"].keys()
    for label in (
        "Distinct words",
        "Distinct word pairs",
        "Distinct word triples",
        "Perplexity",
        "of the run's wall time",
    ):
        assert label in page_of(run)


def test_a_recipe_that_asks_for_nothing_gets_nothing_beside(place: Place) -> None:
    run = place.run("plain", {"data": {"train": "labelled.jsonl", "validation": 0.25}, "task": "classification"}).done()
    assert report_of(run)["memorisation"] is None
    assert "general_perplexity" not in report_of(run)["systems"][0]["metrics"]


@pytest.mark.parametrize(
    ("evaluate", "code"),
    [
        ({"metrics": ["acuracy"]}, "recipe.metric"),
        ({"metrics": ["perplexity"]}, "answers are not measured by this"),
        ({"multiple_choice": "nothing.jsonl"}, "data.missing"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(place: Place, evaluate: dict[str, Any], code: str) -> None:
    run = place.run(
        f"refused-{code}",
        {"data": {"train": "labelled.jsonl", "validation": 0.25}, "task": "classification", "evaluate": evaluate},
    )
    assert run.work() != 0
    assert not any(event.type == "step" for event in run.events)
    (error,) = [event for event in run.events if event.type == "error"]
    assert code in json.dumps(error.data)


def test_a_run_that_was_measured_is_not_measured_again(place: Place) -> None:
    run = place.run(
        "again",
        {"data": {"train": "texts.jsonl", "validation": 0.25}, "task": "text", "evaluate": {"max_new_tokens": "auto"}},
    ).done()
    before: Path = run.folder.evaluation / "base.json"
    stamp = before.stat().st_mtime_ns
    run.folder.manifest.unlink()
    first = report_of(run)["systems"]
    run.done()
    assert before.stat().st_mtime_ns == stamp
    assert report_of(run)["systems"] == first


@pytest.mark.parametrize(("model", "objective"), [("model", "sft"), ("encoder", "sequence_classification")])
def test_questions_are_asked_otherwise(place: Place, model: str, objective: str) -> None:
    run = place.run(
        f"asked-{model}",
        {
            "model": model,
            "data": {"train": "labelled.jsonl", "validation": 0.25},
            "task": "classification",
            "objective": objective,
            "train": {"epochs": 4},
        },
    ).done()
    longest = 4 if model == "model" else "auto"
    request = {"model": str(run.folder.path), "data": "labelled.jsonl", "max_new_tokens": longest}
    plain = report_of(place.stage("evaluate", request).done())
    found = report_of(place.stage("evaluate", {**request, "robustness": True}).done())
    assert [system["name"] for system in found["systems"]] == ["base", "tuned"]
    for system, before in zip(found["systems"], plain["systems"], strict=True):
        accuracy = system["metrics"]["accuracy"]["value"]
        assert accuracy == before["metrics"]["accuracy"]["value"]
        assert system["metrics"]["accuracy_worst_case"]["value"] <= accuracy
        table = system["details"]["robustness"]
        assert [line["asked"] for line in table[1:-1]] == ["typos", "lower_case", "spacing", "contractions", "synonyms"]
        by_kind = {line["asked"]: line for line in table}
        # "message 3" has a word to mistype and none to contract.
        assert (by_kind["typos"]["changed"], by_kind["contractions"]["changed"]) == (12, 0)
        assert by_kind["contractions"]["accuracy"] == by_kind["as_written"]["accuracy"] == accuracy
        assert by_kind["worst_case"]["accuracy"] <= min(line["accuracy"] for line in table)


def test_texts_are_not_asked_otherwise(place: Place) -> None:
    request = {"model": str(place.model), "data": "poems.jsonl", "task": "creative", "rows": 2, "robustness": True}
    stage = place.stage("evaluate", request)
    assert stage.work() != 0
    assert any("usage.robustness" in json.dumps(event.data) for event in stage.events if event.type == "error")
