"""Activations are computed again where the plan says that memory needs it, and in no more layers than it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from planning_cases import machine_of_bytes
from real_worker import write_labelled
from tiny_models import tiny_model_folder

from tunesmith.pipeline import planned
from tunesmith.pipeline.data import load_data
from tunesmith.pipeline.prepare import Prepared, data_facts, prepare, resolve_run
from tunesmith.pipeline.told import Teller
from tunesmith.planner.memory import predict_memory
from tunesmith.planner.shape import shape_of_config
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.resolved import Resolved
from tunesmith.runs.atomic import read_json
from tunesmith.runs.events import open_events
from tunesmith.runs.layout import RunFolder

_LAYERS = 8


@pytest.fixture
def planned_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Resolved, Callable[[int], bool]]]:
    """A run of a deep model, planned on a machine with a share of what lies between all layers again and none."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    model = tiny_model_folder("llama", tmp_path / "model", num_hidden_layers=_LAYERS)
    rows = write_labelled(tmp_path / "rows.csv", 200)
    shape = shape_of_config(read_json(model / "config.json"), "deep")

    def plan(share: float, devices: int) -> tuple[Resolved, Callable[[int], bool]]:
        train = {"devices": devices, "tokens_per_step": 4096 * devices, "tokens_per_micro_batch": 4096}
        recipe = parse_recipe({"model": str(model), "data": {"train": str(rows), "validation": 0.25}, "train": train})
        teller = Teller(open_events(tmp_path / "events.jsonl"))
        prepared: Prepared = prepare(recipe, load_data(recipe.data, 0), tmp_path, teller)
        resolved = resolve_run(prepared)
        assert resolved.activation_checkpointing is False

        def needed(again: bool | int) -> int:
            one = replace(resolved, activation_checkpointing=again)
            return predict_memory(shape, one, data_facts(prepared), machine_of_bytes(10**12)).host

        room = int((needed(True) + share * (needed(False) - needed(True))) / 0.9)
        monkeypatch.setattr(planned, "_hardware", lambda _: machine_of_bytes(room))
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir()
        found = planned.plan_run(folder, prepared, resolved, teller, is_new=True)
        plan = read_json(folder.plan)
        assert plan["fits"]
        assert plan["memory"]["host"] == needed(found.activation_checkpointing)
        return found, lambda again: needed(again) <= int(0.9 * room)

    return plan


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("share", [0.35, 0.6])
def test_activations_are_computed_again_in_as_few_layers_as_it_takes(planned_run, share, devices):
    found, fits_with = planned_run(share, devices)
    layers = found.activation_checkpointing
    assert type(layers) is int
    assert 1 < layers < _LAYERS
    assert fits_with(layers)
    assert not fits_with(layers - 1)
    reason = found.reasons["train.activation_checkpointing"]
    assert reason.startswith("auto: ")
    assert reason.endswith(f"{layers} of {_LAYERS} layers are enough")
