"""A whole run from a recipe: what it leaves, what it tells, and that its numbers are those of the plain library."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from real_worker import Place, RealRun, write_chat, write_labelled
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.data.types import TokenRow
from tunesmith.pipeline.train import MOST_WATCHED_ROWS, _watched

STATES = [
    "started",
    "preparing",
    "auditing",
    "planned",
    "evaluating_base",
    "training",
    "evaluating",
    "reporting",
    "finished",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.make(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def labelled(place: Place) -> RealRun:
    write_labelled(place.folder / "rows.csv", 32)
    return place.run("labelled", {"model": "model", "data": {"train": "rows.csv", "validation": 0.25}}).done()


@pytest.fixture(scope="module")
def chat(place: Place) -> RealRun:
    write_chat(place.folder / "rows.jsonl", 16, turns=2)
    write_chat(place.folder / "held.jsonl", 5, turns=2, start=100)
    data = {"train": "rows.jsonl", "validation": "held.jsonl"}
    return place.run("chat", {"data": data, "evaluate": {"few_shot": 2, "max_new_tokens": 8}}).done()


@pytest.fixture(scope="module")
def full(place: Place) -> RealRun:
    folder = place.folder / "texts"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.txt").write_text(f"Chapter {number}. The parcel has not arrived, and nobody knows why.")
    recipe = {
        "data": {"train": "texts", "validation": 0.25},
        "technique": "full",
        "train": {"learning_rate": 0.002},
        "evaluate": {"max_new_tokens": "auto"},
    }
    return place.run("full", recipe).done()


@pytest.mark.parametrize("name", ["labelled", "chat", "full"])
def test_a_run_tells_its_states_in_order_and_leaves_what_it_tells(name: str, request: pytest.FixtureRequest) -> None:
    run: RealRun = request.getfixturevalue(name)
    assert run.states == STATES
    events = run.events
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    steps = [event.step for event in events if event.type == "step"]
    assert steps == list(range(1, len(steps) + 1))
    told = {event.data["kind"]: event.data["path"] for event in events if event.type == "artifact"}
    assert set(told) == {"audit", "plan", "resolved", "report", "model" if name == "full" else "adapter"}
    for path in told.values():
        assert (run.folder.path / path).exists()
    assert not list(run.folder.path.glob(".*"))


def test_a_run_tells_what_it_has_chosen_before_it_trains(labelled: RealRun) -> None:
    (chosen,) = (event for event in labelled.events if event.data.get("kind") == "resolved")
    steps = [event for event in labelled.events if event.type == "step"]
    assert chosen.seq < steps[0].seq
    resolved = json.loads(labelled.folder.resolved.read_text())["portable"]
    assert chosen.data["epochs"] == resolved["train.epochs"]["value"]
    rows = json.loads(labelled.folder.manifest.read_text())["counts"]["train_rows"]
    assert chosen.data["rows_per_step"] == pytest.approx(rows * steps[0].data["epoch"])


@pytest.mark.parametrize("name", ["labelled", "chat", "full"])
def test_the_manifest_has_the_right_hashes_and_no_path_of_this_machine(
    name: str, request: pytest.FixtureRequest, place: Place
) -> None:
    run: RealRun = request.getfixturevalue(name)
    manifest = json.loads(run.folder.manifest.read_text())
    for file, described in manifest["files"].items():
        content = (run.folder.path / file).read_bytes()
        assert described == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    result = "model/model.safetensors" if name == "full" else "adapter/adapter_model.safetensors"
    assert {result, "recipe.yaml", "report.json", "report.md", "report.html"} <= set(manifest["files"])
    assert (run.folder.path / manifest["model"]["folder"]).resolve() == place.model
    if name == "labelled":  # this recipe names everything relative to the current folder
        for path in (run.folder.manifest, run.folder.resolved, run.folder.audit, run.folder.report_json):
            assert str(place.folder) not in path.read_text(), path.name


def test_the_task_is_told_from_the_data(labelled: RealRun, chat: RealRun, full: RealRun) -> None:
    assert [run.report["task"] for run in (labelled, chat, full)] == ["classification", "chat", "text"]
    assert labelled.report["primary_metric"] == "accuracy"
    assert chat.report["primary_metric"] == "json_exact"
    assert full.report["primary_metric"] == "loss"
    assert list(chat.systems) == ["base", "few_shot", "tuned"]
    assert list(full.systems) == ["base", "tuned"]
    for run in (labelled, chat, full):
        assert run.systems["tuned"]["loss"]["value"] < run.systems["base"]["loss"]["value"]
        assert "Tuned" in run.folder.report_markdown.read_text()
        assert run.folder.report_html.read_text().startswith("<!doctype html>")


def test_the_tuned_model_is_compared_with_examples_in_the_prompt_too(labelled: RealRun, chat: RealRun) -> None:
    few_shot, tuned = (chat.systems[name]["metrics"]["json_exact"]["value"] for name in ("few_shot", "tuned"))
    found = chat.report["against_examples"]
    assert (found["metric"], found["base"], found["tuned"]) == ("json_exact", few_shot, tuned)
    assert found["difference"] == pytest.approx(tuned - few_shot)
    assert found["low"] <= found["difference"] <= found["high"]
    assert labelled.report["against_examples"] is None, "no examples were shown"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
def test_the_measured_loss_is_what_the_plain_library_computes(chat: RealRun, place: Place) -> None:
    rows = [json.loads(line)["messages"] for line in (place.folder / "held.jsonl").read_text().splitlines()]
    model = AutoModelForCausalLM.from_pretrained(place.model, dtype=torch.float32)
    kept = {name: json.loads((chat.folder.evaluation / f"{name}.json").read_text()) for name in ("base", "tuned")}
    _assert_losses(kept["base"]["measured"]["losses"], plain_losses(model, rows, place.model))
    tuned = PeftModel.from_pretrained(model, str(chat.folder.adapter))
    _assert_losses(kept["tuned"]["measured"]["losses"], plain_losses(tuned, rows, chat.folder.adapter))


def test_examples_in_the_prompt_do_not_change_which_tokens_count(chat: RealRun) -> None:
    base, shown = (
        json.loads((chat.folder.evaluation / f"{name}.json").read_text())["measured"] for name in ("base", "few_shot")
    )
    assert shown["losses"]["counts_B"] == base["losses"]["counts_B"]
    assert shown["losses"]["loss_sums_B"] != base["losses"]["loss_sums_B"]
    assert shown["label"] == "Base, 2 examples in the prompt"
    assert len(shown["answers"]) == len(base["answers"]) == 5


def test_the_adapter_is_the_last_checkpoint(chat: RealRun) -> None:
    last = max(chat.folder.checkpoints.iterdir())
    saved = load_file(chat.folder.adapter / "adapter_model.safetensors")
    trained = {name.replace(".default", ""): tensor for name, tensor in load_file(last / "weights.safetensors").items()}
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[name], trained[name]) for name in saved)


def test_the_model_of_a_full_run_loads_by_the_plain_library(full: RealRun, place: Place) -> None:
    model = AutoModelForCausalLM.from_pretrained(full.folder.model, dtype=torch.float32)
    trained = load_file(max(full.folder.checkpoints.iterdir()) / "weights.safetensors")
    assert trained
    for name, tensor in model.named_parameters():
        assert name not in trained or torch.equal(tensor, trained[name]), name
    base = AutoModelForCausalLM.from_pretrained(place.model, dtype=torch.float32)
    assert not torch.equal(base.get_input_embeddings().weight, model.get_input_embeddings().weight)
    assert AutoTokenizer.from_pretrained(full.folder.model).chat_template


def plain_losses(model: Any, rows: list[list[dict[str, str]]], folder: Path) -> list[tuple[float, int]]:
    """Sum and count of each conversation's answers by Transformers alone: one row at a time, its template, its loss."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for messages in rows:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt", add_special_tokens=False)
        labels = torch.full_like(encoded["input_ids"], -100)
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                start = len(
                    tokenizer.apply_chat_template(messages[:number], tokenize=False, add_generation_prompt=True)
                )
                end = len(tokenizer.apply_chat_template(messages[: number + 1], tokenize=False).rstrip())
                inside = (encoded["offset_mapping"][..., 0] >= start) & (encoded["offset_mapping"][..., 1] <= end)
                labels[inside] = encoded["input_ids"][inside]
        count = int((labels[:, 1:] != -100).sum())
        with torch.inference_mode():
            loss = model(input_ids=encoded["input_ids"], labels=labels).loss
        found.append((float(loss) * count, count))
    return found


def _assert_losses(losses: dict[str, list[float]], expected: list[tuple[float, int]]) -> None:
    assert losses["counts_B"] == [count for _, count in expected]
    assert losses["loss_sums_B"] == pytest.approx([total for total, _ in expected], rel=1e-4)


def test_wanted_answers_are_watched_first_and_other_rows_in_their_order() -> None:
    def item(number: int, kind: int) -> tuple[TokenRow, ...]:
        return (TokenRow(np.array([1, 2]), np.array([False, True]), f"rows.jsonl:{number}", kind=kind),)

    rated = [item(number, int(number >= 60)) for number in range(64)]
    assert [one[0].place for one in _watched(rated)[:5]] == [f"rows.jsonl:{number}" for number in (60, 61, 62, 63, 0)]
    plain = [item(number, 0) for number in range(64)]
    assert _watched(plain) == plain[:MOST_WATCHED_ROWS]
