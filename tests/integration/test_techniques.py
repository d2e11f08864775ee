"""Techniques that need more than a model: through the worker, from the recipe to what lies in the run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from real_worker import Place, RealRun, write_chat
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place.make(tmp_path_factory.mktemp("techniques"))
    write_chat(made.folder / "rows.jsonl", 16, turns=2)
    return made


def trained(place: Place, name: str, technique: dict[str, Any]) -> RealRun:
    return place.run(name, {"data": {"train": "rows.jsonl", "validation": 0.25}, "technique": technique}).done()


def detail(run: RealRun) -> str:
    return next(event.data["detail"] for event in run.events if event.data.get("state") == "training")


def test_eva_sees_the_training_rows(place: Place) -> None:
    run = trained(place, "eva", {"name": "dora", "rank": 4, "initialization": "eva"})
    config = json.loads((run.folder.adapter / "adapter_config.json").read_text())
    assert config["use_dora"]
    weights = load_file(run.folder.adapter / "adapter_model.safetensors")
    ranks = [tensor.shape[0] for name, tensor in weights.items() if name.endswith("lora_A.weight")]
    # The directions were dealt out anew: as many in all, unevenly.
    assert sum(ranks) == 4 * 14
    assert len(set(ranks)) > 1
    assert "q_proj x 2" in detail(run)


def test_pissa_says_its_doubled_rank_where_peft_reads_it(place: Place) -> None:
    run = trained(place, "pissa", {"name": "lora", "rank": 4, "initialization": "pissa", "learning_rate_ratio": 4})
    config = json.loads((run.folder.adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 64)
    assert run.systems["tuned"]["loss"]["value"] < run.systems["base"]["loss"]["value"]


def test_freeze_writes_a_whole_model_in_which_the_first_layer_is_as_it_was(place: Place) -> None:
    run = trained(place, "freeze", {"name": "freeze", "layers": 1})
    before = AutoModelForCausalLM.from_pretrained(place.model).state_dict()
    after = AutoModelForCausalLM.from_pretrained(run.folder.model).state_dict()
    changed = {name for name, tensor in after.items() if not tensor.equal(before[name])}
    assert changed
    assert all(name.startswith(("model.layers.1.", "model.norm.")) for name in changed)
    assert "norm" in detail(run)


def test_targets_of_another_family_are_refused_with_the_right_names(tmp_path: Path) -> None:
    place = Place.make(tmp_path, "phi3")
    write_chat(place.folder / "rows.jsonl", 16, turns=2)
    technique = {"name": "lora", "targets": ["q_proj", "o_proj", "gate_proj"]}
    run = place.run("wrong", {"data": {"train": "rows.jsonl", "validation": 0.25}, "technique": technique})
    assert run.work() != 0
    assert [problem["value"] for problem in run.error["problems"]] == ["q_proj", "gate_proj"]
    assert "qkv_proj, gate_up_proj" in run.error["problems"][0]["hint"]
