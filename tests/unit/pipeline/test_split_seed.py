"""The seed of the split says which rows are held out; whoever leaves it out gets the seed of the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.pipeline.data import load_data
from tunesmith.recipe.load import parse_recipe


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(100)))
    return path


def held_out(rows: Path, seed: int, **data: Any) -> set[str]:
    """Which rows are held out, after it was made sure that exactly the others train."""
    spec = {"train": str(rows), "validation": 0.2, **data}
    recipe = parse_recipe({"model": "tiny", "data": spec, "train": {"seed": seed}})
    loaded = load_data(recipe.data, recipe.train.seed)
    held = {str(place) for place, _ in loaded.held_out()}
    trained = {str(place) for place, _ in loaded.train()}
    assert (len(held), len(trained), held & trained) == (20, 80, set())
    return held


def test_without_it_the_seed_of_the_training_decides(rows: Path) -> None:
    usual = held_out(rows, 5)
    assert held_out(rows, 5, split_seed="auto") == usual
    assert held_out(rows, 6) != usual


def test_it_decides_whatever_the_seed_of_the_training_is(rows: Path) -> None:
    chosen = held_out(rows, 0, split_seed=5)
    assert chosen == held_out(rows, 6, split_seed=5)
    assert chosen == held_out(rows, 5), "the same seed holds out the same rows, whoever gave it"
    assert chosen != held_out(rows, 0, split_seed=6)
    assert held_out(rows, 5, split_seed=0) == held_out(rows, 0) != chosen
