"""Tuned heads after their run: measured again, trained on, and told apart from heads that know other labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from real_worker import Place, RealRun, write_labelled
from tiny_models import tiny_encoder_folder

from tunesmith.catalog.heads import Head, read_head, write_head
from tunesmith.errors import ModelError
from tunesmith.models.load import LoadPlan, load_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
LABELS = ("down", "left", "up")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("heads"))
    tiny_encoder_folder(place.folder / "encoder")
    write_labelled(place.folder / "rows.csv", 24, labels=LABELS)
    write_labelled(place.folder / "held.csv", 6, labels=("up",), start=60)
    return place


def trained(place: Place, name: str, model: str, technique: object, rows: str = "rows.csv") -> RealRun:
    recipe = {"model": model, "data": {"train": rows, "validation": "held.csv"}, "technique": technique}
    return place.run(name, {**recipe, "train": {"seed": 5, "learning_rate": 0.005}}).done()


@pytest.fixture(scope="module")
def lora(place: Place) -> RealRun:
    return trained(place, "lora", "encoder", {"name": "lora", "rank": 4})


@pytest.fixture(scope="module")
def full(place: Place) -> RealRun:
    return trained(place, "full", "encoder", "full")


def losses(run: RealRun) -> dict[str, float]:
    return {name: system["loss"]["value"] for name, system in run.systems.items()}


def test_the_head_lies_beside_what_was_trained(lora: RealRun, full: RealRun) -> None:
    saved = Head("sequence_classification", LABELS, 5)
    model = full.folder.path / "model"
    assert read_head(lora.folder.adapter) == read_head(model) == saved
    (model / "head.json").rename(model / "hidden")
    found = read_head(model)
    (model / "hidden").rename(model / "head.json")
    assert found == Head("sequence_classification", LABELS, 0), "the config says it to other programs"


@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_run_is_measured_again_as_it_was_at_its_end(place: Place, name: str, request: pytest.FixtureRequest) -> None:
    """The head, its labels and what the base's head began with come from the run; these rows show one label alone."""
    run: RealRun = request.getfixturevalue(name)
    again = place.stage("evaluate", {"model": name, "data": "held.csv", "samples": 2}).done()
    assert losses(again) == pytest.approx(losses(run), rel=1e-4)
    assert again.systems["base"]["label"] == run.systems["base"]["label"] == "Base, head untrained"
    assert losses(run)["tuned"] != losses(run)["base"]


@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_run_on_a_run_goes_on_with_its_head(place: Place, name: str, request: pytest.FixtureRequest) -> None:
    """Two of three labels are shown, in another order; the head keeps its three."""
    run: RealRun = request.getfixturevalue(name)
    write_labelled(place.folder / "two.csv", 8, labels=("up", "down"))
    on = trained(place, f"on-{name}", name, {"name": "lora", "rank": 4}, "two.csv")
    assert losses(on)["base"] == pytest.approx(losses(run)["tuned"], rel=1e-3)
    assert on.systems["base"]["label"] == "Base"
    assert read_head(on.folder.adapter) == Head("sequence_classification", LABELS, 5)


def test_a_head_of_other_labels_begins_anew(place: Place, full: RealRun) -> None:
    """As many labels as before, so that the weights would fit without meaning anything."""
    folder = full.folder.path / "model"
    same, other = (
        load_model(LoadPlan(folder, head=Head("sequence_classification", labels)))
        for labels in (LABELS, ("a", "b", "c"))
    )
    assert not torch.equal(same.classifier.weight, other.classifier.weight)
    assert torch.equal(same.bert.pooler.dense.weight, other.bert.pooler.dense.weight)


def test_a_damaged_head_is_a_named_error(tmp_path: Path) -> None:
    assert read_head(tmp_path) is None
    write_head(tmp_path, Head("token_classification", ("O", "B-x", "I-x", "B-y", "I-y")))
    head = read_head(tmp_path)
    assert head is not None
    assert head.task_labels == ("x", "y")
    for text in ("[]", "{", '{"kind": "other", "labels": [], "seed": 0}'):
        (tmp_path / "head.json").write_text(text)
        with pytest.raises(ModelError) as caught:
            read_head(tmp_path)
        assert caught.value.code == "model.broken_head"
