"""Whole runs on what people prefer: pairs with each objective, ratings with kto, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_worker import Place, RealRun, write_labelled

WORDS = ("red", "blue", "green", "stone")
LIKELIHOODS = {"max_new_tokens": "auto", "few_shot": "auto"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("preference"))
    pairs = [
        {
            "prompt": f"message {at} goes up the street",
            "chosen": f"{WORDS[at % 4]} up",
            "rejected": f"{WORDS[(at + 1) % 4]} down the street",
        }
        for at in range(48)
    ]
    write(place.folder / "pairs.jsonl", pairs[:36])
    write(place.folder / "held.jsonl", pairs[36:])
    write(place.folder / "rated.jsonl", rated(pairs[:36]))
    write(place.folder / "held_rated.jsonl", rated(pairs[36:]))
    return place


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def rated(pairs: list[dict[str, str]]) -> list[dict[str, object]]:
    sides = [("chosen", True), ("rejected", False)]
    return [
        {"prompt": pair["prompt"], "completion": pair[side], "label": wanted}
        for pair in pairs
        for side, wanted in sides
    ]


def trained(place: Place, name: str, train: str, held: str, **settings: object) -> RealRun:
    recipe = {"data": {"train": train, "validation": held}, "evaluate": LIKELIHOODS, **settings}
    return place.run(name, recipe).done()


@pytest.mark.parametrize("objective", ["dpo", "orpo", "kto"])
def test_pairs_are_learned_and_measured(place: Place, objective: str) -> None:
    run = trained(place, objective, "pairs.jsonl", "held.jsonl", objective=objective)
    base, tuned = run.systems["base"], run.systems["tuned"]
    assert list(run.systems) == ["base", "tuned"]
    for metric in ("pair_accuracy", "margin"):
        assert tuned["metrics"][metric]["value"] > base["metrics"][metric]["value"]
    verdict = run.report["verdict"]
    assert (verdict["metric"], verdict["decided"]) == ("pair_accuracy", True)
    assert verdict["difference"] > 0
    assert run.report["data"]["train"]["used_rows"] == 36
    assert run.report["data"]["validation"]["rows"] == 12
    assert run.report["samples"] == []
    assert run.resolved["evaluate.few_shot"] == run.resolved["evaluate.max_new_tokens"] == 0
    assert "Chosen answer likelier" in (run.folder.path / "report.md").read_text()
    assert "Chosen answer likelier" in (run.folder.path / "report.html").read_text()
    measured = place.stage("evaluate", {"model": objective, "data": "held.jsonl"}).done()
    again = measured.systems["tuned"]["metrics"]["margin"]["value"]
    assert again == pytest.approx(tuned["metrics"]["margin"]["value"], rel=1e-2)


def test_whole_models_learn_pairs_without_a_reference(place: Place) -> None:
    run = trained(place, "whole", "pairs.jsonl", "held.jsonl", technique="full")
    assert run.report["objective"] == "orpo"


def test_ratings_are_learned(place: Place) -> None:
    run = trained(place, "rated", "rated.jsonl", "held_rated.jsonl")
    assert run.report["objective"] == "kto"
    assert run.report["verdict"]["metric"] == "wanted_likelier"
    base, tuned = (run.systems[name]["metrics"] for name in ("base", "tuned"))
    assert tuned["wanted_likelier"]["value"] > base["wanted_likelier"]["value"]
    assert tuned["wanted_margin"]["value"] > base["wanted_margin"]["value"]
    assert run.systems["tuned"]["loss"]["value"] < run.systems["base"]["loss"]["value"]


def test_preferences_are_audited(place: Place) -> None:
    pairs = place.stage("audit", {"show": 2}, {"data": {"train": "pairs.jsonl", "validation": "held.jsonl"}}).done()
    audit = json.loads(pairs.folder.audit.read_text())
    assert audit["ok"]
    assert audit["tokens"]["rows"] == 72
    learned = ["".join(piece["text"] for piece in row["pieces"] if piece["trained"]) for row in audit["shown"]]
    assert learned[0].startswith("red up")
    assert learned[1].startswith("blue down")


def test_no_wanted_answer_to_measure_is_told_before_training(place: Place) -> None:
    write(place.folder / "unwanted.jsonl", [{"prompt": "a message", "completion": "down", "label": False}] * 3)
    data = {"train": "rated.jsonl", "validation": "unwanted.jsonl"}
    run = place.run("unwanted", {"data": data, "evaluate": LIKELIHOODS})
    assert run.work() == 11
    assert run.error["code"] == "evaluation.none_wanted"
    assert "training" not in run.states


def test_preference_objectives_refuse_other_rows(place: Place) -> None:
    write_labelled(place.folder / "labelled.csv", 12)
    run = place.run("labelled", {"data": {"train": "labelled.csv"}, "objective": "dpo"})
    assert run.work() == 10
    assert "recipe.no_preferences" in [problem["code"] for problem in run.problems]
