"""New tokens from the recipe to the answer: rows, training, saved adapter, a run on the run, and its measurement."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from real_worker import Place, RealRun
from transformers import AutoModelForCausalLM, AutoTokenizer

import tunesmith

TOKEN = "<sku>"
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def write_rows(path: Path) -> None:
    lines = []
    for number in range(16):
        messages = [
            {"role": "user", "content": f"Which part is number {number}?"},
            {"role": "assistant", "content": f"Part {TOKEN}{number % 4}."},
        ]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place.make(tmp_path_factory.mktemp("tokens"))
    write_rows(made.folder / "rows.jsonl")
    return made


def recipe(**more: object) -> dict[str, object]:
    return {"data": {"train": "rows.jsonl", "validation": 0.25, "new_tokens": [TOKEN]}, **more}


@pytest.fixture(scope="module")
def first(place: Place) -> RealRun:
    return place.run("first", recipe(technique={"name": "lora", "rank": 4})).done()


def test_the_adapter_loads_in_plain_peft(place: Place, first: RealRun) -> None:
    tokenizer = AutoTokenizer.from_pretrained(first.folder.adapter)
    number = tokenizer.convert_tokens_to_ids(TOKEN)
    assert number == len(AutoTokenizer.from_pretrained(place.model)) == len(tokenizer) - 1
    model = AutoModelForCausalLM.from_pretrained(place.model)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    before = model.get_input_embeddings().weight.detach().clone()
    model = peft.PeftModel.from_pretrained(model, str(first.folder.adapter)).merge_and_unload()
    after = model.get_input_embeddings().weight
    assert torch.equal(after[:number], before[:number])
    mean = before[:number].mean(dim=0)
    assert not torch.allclose(after[number], mean, atol=1e-3)
    assert torch.allclose(after[number], mean, atol=0.5)
    details = next(event.data["detail"] for event in first.events if event.data.get("state") == "training")
    assert details.endswith("down_proj x 2, embed_tokens") or "embed_tokens" in details
    assert "q_proj x 2" in details


def test_a_run_on_the_run_and_the_measurement_know_the_token(place: Place, first: RealRun) -> None:
    second = place.run("second", {"model": "first", "data": {"train": "rows.jsonl", "validation": 0.25}}).done()
    assert second.systems["base"]["loss"]["value"] == pytest.approx(first.systems["tuned"]["loss"]["value"], rel=1e-3)
    merge = json.loads(second.folder.manifest.read_text())["model"]["merge"]
    assert 0 <= merge["mean"] <= merge["largest"] < 1e-3
    assert any("logits differ" in str(event.data.get("detail")) for event in second.events)
    assert json.loads(first.folder.manifest.read_text())["model"]["merge"] is None
    measured = place.stage("evaluate", {"model": "first", "data": "rows.jsonl"}).done()
    assert set(measured.systems) == {"base", "tuned"}
    assert measured.systems["tuned"]["loss"]["value"] < measured.systems["base"]["loss"]["value"]


def test_the_run_answers(place: Place, first: RealRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(place.folder / "cache"))
    with tunesmith.load(first.folder.path) as model:
        assert isinstance(model.generate(f"Which part is {TOKEN}?", max_tokens=4), str)


def test_full_training_writes_a_larger_model(place: Place) -> None:
    run = place.run("full", recipe(technique="full", train={"learning_rate": 0.002})).done()
    model = AutoModelForCausalLM.from_pretrained(run.folder.model)
    tokenizer = AutoTokenizer.from_pretrained(run.folder.model)
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.convert_tokens_to_ids(TOKEN) == len(tokenizer) - 1
    measured = place.stage("evaluate", {"model": "full", "data": "rows.jsonl"}).done()
    assert set(measured.systems) == {"base", "tuned"}
    again = place.run("again", {**recipe(), "model": "full"})
    assert again.work() != 0
    assert again.error["code"] == "model.known_token"
