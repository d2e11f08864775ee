"""The objective of a recipe, on these rows and this kind of model."""

from __future__ import annotations

from tunesmith.recipe.objectives import ObjectiveSpec, fitting_objective
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.techniques import OWN_WEIGHTS


def objective_of(recipe: Recipe, *, task: str, shape: str, model_kind: str) -> ObjectiveSpec:
    """What the recipe names, or what fits where it leaves that open; it decides how rows become tokens."""
    frozen = recipe.technique.name not in OWN_WEIGHTS
    return fitting_objective(recipe.objective, task=task, shape=shape, model_kind=model_kind, frozen_base=frozen)
