"""Every recipe that ships is read, and comes back from its own dump."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tunesmith.recipe.load import dump_recipe, load_recipe, parse_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def test_there_are_recipes():
    assert len(RECIPES) >= 5


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_and_comes_back_from_its_dump(path):
    recipe = load_recipe(path)
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe)), "dump") == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_data_of_the_repository_is_there(path):
    data = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]
    for source in (data["train"], data.get("validation")):
        if isinstance(source, str) and source.startswith("src/"):
            assert (ROOT / source).is_file()
