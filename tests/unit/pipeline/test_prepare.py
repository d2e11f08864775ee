"""Before training: a wish to pause is heard while rows are read, and leaves nothing half-done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from real_worker import write_labelled
from tiny_models import tiny_model_folder

from tunesmith.errors import Stopped
from tunesmith.pipeline.data import RunData, load_data
from tunesmith.pipeline.prepare import Prepared, audit_run, data_facts, prepare
from tunesmith.pipeline.told import Teller
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.schema import Recipe
from tunesmith.runs.events import open_events


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def prepared(tmp_path: Path, cache: Path) -> Callable[..., Prepared]:
    model = tiny_model_folder("llama", tmp_path / "model")
    rows = write_labelled(tmp_path / "rows.csv", 400)
    recipe: Recipe = parse_recipe({"model": str(model), "data": {"train": str(rows), "validation": 0.25}})
    data: RunData = load_data(recipe.data, 0)
    teller = Teller(open_events(tmp_path / "events.jsonl"))
    return lambda *should_stop: prepare(recipe, data, tmp_path, teller, *should_stop)


def test_a_pause_while_tokenizing_leaves_no_tokens(prepared: Callable[..., Prepared], cache: Path) -> None:
    asked: list[None] = []

    def third_time() -> bool:
        asked.append(None)
        return len(asked) == 3

    with pytest.raises(Stopped) as stopped:
        prepared(third_time)
    assert stopped.value.code == "prepare.stopped"
    assert len(asked) == 3
    assert list(cache.iterdir()) == []
    whole = prepared()
    assert (len(whole.train.items), len(whole.validation.items)) == (300, 100)


def test_a_pause_while_auditing_is_heard(prepared: Callable[..., Prepared]) -> None:
    found = prepared()
    asked: list[None] = []

    def second_time() -> bool:
        asked.append(None)
        return len(asked) == 2

    with pytest.raises(Stopped):
        audit_run(found, should_stop=second_time)
    assert audit_run(found).ok


def test_what_groups_begin_with_is_measured_where_they_are_kept_together(tmp_path: Path, cache: Path) -> None:
    model = tiny_model_folder("llama", tmp_path / "model")
    lines = [
        json.dumps({"context": f"{word} " * 12, "question": f"Which word is number {number}?", "answer": word})
        for word in ("red", "blue", "green")
        for number in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    measured = {}
    for sampler in ("random", "grouped"):
        data = {"train": str(tmp_path / "rows.jsonl"), "validation": 0.25}
        recipe = parse_recipe({"model": str(model), "data": data, "train": {"sampler": sampler}})
        prepared = prepare(recipe, load_data(recipe.data, 0), tmp_path, Teller(open_events(tmp_path / "events.jsonl")))
        measured[sampler] = data_facts(prepared)
    assert (measured["random"].group_prefix_tokens, measured["random"].group_shared_tokens) == (0, 0)
    facts = measured["grouped"]
    assert facts.shared_prefix_tokens + 12 < facts.group_prefix_tokens < facts.longest_row
    # Of each of three documents one row computes it.
    assert facts.group_shared_tokens >= (facts.rows - 3) * (facts.shared_prefix_tokens + 12)
