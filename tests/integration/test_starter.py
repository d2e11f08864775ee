"""The real starter model trains for a few steps, gets better on rows it did not see, and answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tunesmith
from tunesmith.runs.events import read_events
from tunesmith.samples import sample_folder

pytestmark = [pytest.mark.starter, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(starter_model: Path, tmp_path_factory: pytest.TempPathFactory):
    """A run on 48 rows of the bundled sample."""
    folder = tmp_path_factory.mktemp("starter")
    for part, rows in (("train", 48), ("heldout", 6)):
        lines = (sample_folder("support_routing") / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / f"{part}.jsonl").write_text("\n".join(lines[:rows]), encoding="utf-8")
    recipe = {
        "model": str(starter_model),
        "data": {"train": str(folder / "train.jsonl"), "validation": str(folder / "heldout.jsonl")},
        "train": {"epochs": 1, "tokens_per_step": 1024, "learning_rate": 1e-3, "schedule": "constant", "warmup": 0},
        "evaluate": {"rows": 6, "few_shot": 0, "samples": 1, "max_new_tokens": 20},
    }
    return tunesmith.train(recipe, name="starter", output=folder / "runs")


def test_the_held_out_loss_falls_and_the_answers_get_their_form(run):
    systems = {system["name"]: system for system in run.report["systems"]}
    assert systems["tuned"]["loss"]["value"] < 0.5 * systems["base"]["loss"]["value"]
    assert systems["tuned"]["metrics"]["json_valid"]["value"] > systems["base"]["metrics"]["json_valid"]["value"]


def test_the_training_loss_falls(run):
    losses = [event.data["loss"] for event in read_events(run.path / "events.jsonl") if event.type == "step"]
    assert len(losses) >= 4
    assert losses[-1] < 0.5 * losses[0]


def test_the_result_answers_as_it_was_taught(run):
    row = json.loads((sample_folder("support_routing") / "heldout.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    with tunesmith.load(run) as model:
        answer = json.loads(model.generate(row["messages"][:-1], max_tokens=20))
    assert set(answer) == {"queue", "urgency"}
