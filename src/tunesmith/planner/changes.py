"""A recipe with some of its settings changed, and every open value chosen anew for what it then is.

    change = change_of(recipe, resolved, facts)
    change(("technique=qlora",))            # the values, or None where that cannot work

The rank and the targets of a low-rank technique are the user's wish, so another low-rank technique keeps them.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from tunesmith.errors import RecipeError
from tunesmith.recipe.load import apply_overrides, parse_recipe
from tunesmith.recipe.refusal import Facts
from tunesmith.recipe.refusals import check
from tunesmith.recipe.resolve import resolve
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.techniques import LowRank, TechniqueSpec

# Settings of a recipe as one writes them: technique=qlora.
Settings = tuple[str, ...]
# The values of a recipe with some settings, or None where they do not go with the rest.
Change = Callable[[Settings], Resolved | None]

_TECHNIQUE = "technique="
# What one low-rank technique takes over from another.
_KEPT = (
    "rank",
    "alpha",
    "targets",
    "dropout",
    "rank_stabilized",
    "rank_pattern",
    "alpha_pattern",
    "learning_rate_ratio",
)


def change_of(recipe: Recipe, resolved: Resolved, facts: Facts) -> Change:
    """How a recipe changes, where its rows, its model and its machine stay the same."""

    def change(settings: Settings) -> Resolved | None:
        if not settings:
            return resolved
        try:
            changed = changed_recipe(recipe, resolved, settings)
            check(changed, facts)
        except RecipeError:
            return None
        return resolve(changed, facts.data, facts.model, facts.host)

    return change


def changed_recipe(recipe: Recipe, resolved: Resolved, settings: Settings, *, keep_objective: bool = True) -> Recipe:
    """The recipe with some settings. The objective stays what it was: with another it would be another training.

    ``keep_objective`` writes it down; else it is left as open as the recipe leaves it.

    Raises:
        RecipeError: The settings are none.
    """
    objective = orjson.dumps(resolved.objective.model_dump(mode="json")).decode()
    written = [_written(resolved.technique, setting) for setting in settings]
    if keep_objective:
        written.insert(0, f"objective={objective}")
    return parse_recipe(apply_overrides(recipe.model_dump(mode="json", exclude_unset=True), written), "changed recipe")


def _written(now: TechniqueSpec, setting: str) -> str:
    """The setting; of a low-rank technique with what the one before it had."""
    if not setting.startswith(_TECHNIQUE) or not isinstance(now, LowRank):
        return setting
    name = setting.removeprefix(_TECHNIQUE)
    if name not in ("lora", "dora", "qlora"):
        return setting
    given = now.model_dump(mode="json", include=set(_KEPT) & now.model_fields_set)
    return _TECHNIQUE + orjson.dumps({"name": name, **given}).decode()
