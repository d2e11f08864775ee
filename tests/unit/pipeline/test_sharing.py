"""A run that is resumed is shared out as it was asked for then, and keeps what nobody spoke of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from real_worker import write_labelled
from tiny_models import tiny_model_folder

from tunesmith.errors import ResourceError
from tunesmith.models.host import probe_host
from tunesmith.pipeline.data import load_data
from tunesmith.pipeline.planned import resolve_as_planned
from tunesmith.pipeline.prepare import Prepared, prepare, resolve_run
from tunesmith.pipeline.sharing import resolve_anew
from tunesmith.pipeline.told import Teller
from tunesmith.pipeline.train import run_training
from tunesmith.recipe.load import dump_recipe, parse_recipe
from tunesmith.runs.atomic import write_json, write_text
from tunesmith.runs.events import open_events, read_events
from tunesmith.runs.layout import RunFolder

_MIB = 2**20


@pytest.fixture
def offloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, Prepared]:
    """A run of two small GPUs that leaves the strategy open and offloads."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    host = replace(probe_host(), device="cuda", device_memory_bytes=_MIB)
    monkeypatch.setattr("tunesmith.pipeline.prepare.probe_host", lambda: host)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    model = tiny_model_folder("llama", tmp_path / "model")
    rows = write_labelled(tmp_path / "rows.csv", 40)
    recipe = parse_recipe(
        {
            "model": str(model),
            "technique": "full",
            "data": {"train": str(rows), "validation": 0.25},
            "train": {"devices": 2, "offload": True, "precision": "float32"},
        }
    )
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    write_text(folder.recipe, dump_recipe(recipe))
    data = load_data(recipe.data, 0)
    prepared = prepare(recipe, data, tmp_path, Teller(open_events(tmp_path / "events.jsonl")))
    return folder, prepared


@pytest.mark.parametrize(("asked", "offload"), [({"train.devices": 4}, True), ({"train.devices": 1}, False)])
def test_what_is_offloaded_stays_so_where_it_can(
    offloading: tuple[RunFolder, Prepared], asked: dict[str, int], offload: bool
) -> None:
    folder, prepared = offloading
    resolved = resolve_run(prepared)
    assert resolved.offload
    write_json(folder.resume, asked)
    found = resolve_anew(folder, prepared, resolved)
    assert (found.devices, found.offload) == (asked["train.devices"], offload)


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_more_gpus_than_there_are_are_refused_before_the_base_is_measured(
    offloading: tuple[RunFolder, Prepared], strategy: str
) -> None:
    folder, prepared = offloading
    train = {**prepared.recipe.train.model_dump(mode="json"), "devices": 5, "offload": False}
    recipe = {**prepared.recipe.model_dump(mode="json"), "strategy": strategy, "fit": "try", "train": train}
    write_text(folder.recipe, dump_recipe(parse_recipe(recipe)))
    with pytest.raises(ResourceError) as caught:
        run_training(folder, open_events(folder.events), lambda: "continue")
    assert caught.value.code == "resource.devices"
    assert caught.value.value == "5 wanted, 4 there"
    states = [event.data["state"] for event in read_events(folder.events) if event.type == "status"]
    assert "auditing" in states
    assert "evaluating_base" not in states


def test_more_gpus_than_there_are_may_be_asked_about(offloading: tuple[RunFolder, Prepared]) -> None:
    folder, prepared = offloading
    train = prepared.recipe.train.model_copy(update={"devices": 5})
    asked = replace(prepared, recipe=prepared.recipe.model_copy(update={"train": train}))
    found = resolve_as_planned(asked, Teller(open_events(folder.events)))
    assert (found.devices, found.strategy) == (5, resolve_run(asked).strategy)


def test_more_gpus_than_there_are_are_refused_of_a_run_that_goes_on(
    offloading: tuple[RunFolder, Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, prepared = offloading
    monkeypatch.setenv("TUNESMITH_ADDRESS", "127.0.0.1")
    resolved = resolve_run(prepared)
    # Those of each machine count, not those of all.
    write_json(folder.resume, {"train.devices": 4, "train.nodes": 2})
    assert resolve_anew(folder, prepared, resolved).nodes == 2
    write_json(folder.resume, {"train.devices": 8})
    with pytest.raises(ResourceError, match="fewer GPUs"):
        resolve_anew(folder, prepared, resolved)
