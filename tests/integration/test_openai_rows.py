"""What of a recipe and of its rows reaches a service with OpenAI's contract, and in which form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_openai import FakeOpenAi
from openai_site import MODEL, Site, events_of, serving, until_ended
from pydantic import BaseModel

from tunesmith.errors import RecipeError
from tunesmith.executors.openai import files
from tunesmith.executors.openai.limits import HONOURED, PASSED_OVER, REFUSED
from tunesmith.jobs.submitted import look
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.schema import DataSpec, EvaluateSpec, Recipe, TrainSpec

pytest.importorskip("openai")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAi]:
    with serving(monkeypatch) as service:
        yield service


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_large_file_goes_in_parts(service: FakeOpenAi, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_BYTES_AT_ONCE", 2_000)
    job = site.submit(site.recipe(site.labelled(60)))
    training = service.bodies[0]["training_file"]
    assert len(service.parts) > len(service.uploads) >= 1
    assert service.files[training]["filename"].endswith("-training.jsonl")
    assert len(service.lines(training)) == 45
    assert until_ended(job).status.state == "succeeded"


CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"number": 4}'}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
SHAPES: dict[str, list[dict[str, Any]]] = {
    "prompt and completion": [{"prompt": f"ask {at}", "completion": f"answer {at}"} for at in range(16)],
    "translation": [{"source": f"house {at}", "target": f"Haus {at}"} for at in range(16)],
    "question": [{"question": f"how {at}?", "answer": f"so {at}"} for at in range(16)],
    "context": [{"context": f"it is {at} here", "question": "how many?", "answers": [f"{at}"]} for at in range(16)],
    "sql": [{"question": f"all of {at}", "sql": f"SELECT {at}", "schema": "CREATE TABLE t (a)"} for at in range(16)],
    "tokens": [{"tokens": ["Anna", "lives", f"in{at}"], "ner_tags": ["B-PER", "O", "O"]} for at in range(16)],
    "tools": [
        {
            "messages": [
                {"role": "user", "content": f"number {at}"},
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "content": "found"},
                {"role": "assistant", "content": "let me see", "weight": 0},
                {"role": "user", "content": "and?"},
                {"role": "assistant", "content": f"it is {at}"},
            ],
            "tools": [TOOL],
        }
        for at in range(16)
    ],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_goes_as_a_conversation(service: FakeOpenAi, site: Site, shape: str) -> None:
    job = site.submit(site.recipe(site.rows(SHAPES[shape])))
    row = service.lines(service.bodies[0]["training_file"])[0]
    assert row["messages"][-1]["role"] == "assistant"
    if shape == "tools":
        called, answered, unlearned = row["messages"][1:4]
        assert "content" not in called
        assert answered["tool_call_id"] == called["tool_calls"][0]["id"] == "c1"
        assert unlearned["weight"] == 0
        assert row["tools"] == [TOOL]
    # The service holds each line to the contract when it reads the files.
    assert look(job).status.state == "queued"


def test_pairs_go_as_dpo(service: FakeOpenAi, site: Site) -> None:
    rows = [{"prompt": f"say {at}", "chosen": f"yes {at}", "rejected": "no"} for at in range(20)]
    job = site.submit(site.recipe(site.rows(rows), objective={"name": "dpo", "beta": 0.4}))
    method = service.bodies[0]["method"]
    assert (method["type"], method["dpo"]["hyperparameters"]["beta"]) == ("dpo", 0.4)
    line = service.lines(service.bodies[0]["training_file"])[0]
    assert line["non_preferred_output"] == [{"role": "assistant", "content": "no"}]
    assert until_ended(job).status.state == "succeeded"
    rated = [{"prompt": f"say {at}", "completion": f"yes {at}", "label": True} for at in range(20)]
    with pytest.raises(RecipeError) as caught:
        site.submit(site.recipe(site.rows(rated, "rated.jsonl")), name="rated")
    assert "these rows have one" in str(caught.value)
    texts = site.rows([{"text": f"a text of some length {at}"} for at in range(20)], "texts.jsonl")
    with pytest.raises(RecipeError) as plain:
        site.submit(site.recipe(texts, task="text"), name="texts")
    assert "no answer to learn" in str(plain.value)


REFUSALS: dict[str, dict[str, Any]] = {
    "technique": {"technique": {"rank": 8}},
    "export": {"export": ["merged"]},
    "objective": {"objective": "orpo"},
    "objective.label_smoothing": {"objective": {"name": "sft", "label_smoothing": 0.1}},
    "train.learning_rate": {"train": {"learning_rate": 0.001}},
    "train.optimizer": {"train": {"optimizer": "adafactor"}},
    "train.epochs": {"train": {"epochs": 1.5}},
    "train.seed": {"train": {"seed": 2**31}},
    "train.budget": {"train": {"budget": "90s"}},
    "evaluate.learning_curve": {"evaluate": {"learning_curve": True}},
}


@pytest.mark.parametrize("key", REFUSALS)
def test_what_the_service_cannot_honour_is_refused_by_name(service: FakeOpenAi, site: Site, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        site.submit(site.recipe(site.labelled(), **REFUSALS[key]))
    assert [problem.place for problem in caught.value.problems] == [key]
    assert all(problem.hint for problem in caught.value.problems)
    assert service.asked == []
    assert not (site.runs / "one").exists()


def test_what_is_passed_over_is_told(service: FakeOpenAi, site: Site) -> None:
    settings: dict[str, Any] = {"train": {"devices": 2, "layout": "padded"}, "evaluate": {"samples": 3}}
    settings["model"] = "smollm2-135m-instruct"
    job = site.submit(site.recipe(site.labelled(), **settings))
    look(job)
    look(job)
    over, other = (event.data["message"] for event in events_of(job, "warning"))
    assert "train.devices, train.layout, evaluate.samples" in over
    assert "smollm2-135m-instruct" in other
    assert MODEL in other


def test_every_key_of_a_recipe_is_honoured_refused_or_told() -> None:
    sections: dict[str, type[BaseModel]] = {"data": DataSpec, "train": TrainSpec, "evaluate": EvaluateSpec}
    keys = set(Recipe.model_fields) - set(sections)
    keys |= {f"{name}.{inner}" for name, section in sections.items() for inner in section.model_fields}
    assert keys == HONOURED | REFUSED.keys() | PASSED_OVER
    assert len(keys) == len(HONOURED) + len(REFUSED) + len(PASSED_OVER)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": MODEL, "base_url": "https://me:secret@host/v1"},
        {"model": MODEL, "base_url": "https://host/v1?key=1"},
        {"model": MODEL, "api": "azure", "base_url": "https://host/v1"},
        {"model": MODEL, "endpoint": "https://host"},
        {"model": MODEL, "key_variable": "sk-this-is-a-key"},
        {"model": MODEL, "suffix": "x" * 65},
        {"model": MODEL, "api": "azure", "suffix": "x" * 41},
        {"model": MODEL, "batch_size": 257},
        {"model": MODEL, "key": "sk-this-is-a-key"},
    ],
)
def test_settings_that_make_no_sense_or_hold_a_secret_are_refused(settings: dict[str, Any]) -> None:
    plain = {"model": MODEL, "data": {"train": "rows.jsonl"}, "executor": {"name": "openai", **settings}}
    with pytest.raises(RecipeError):
        parse_recipe(plain, "the test")
