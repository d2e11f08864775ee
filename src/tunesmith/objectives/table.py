"""The objectives by name: one row each."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.errors import RecipeError
from tunesmith.objectives.base import Objective
from tunesmith.objectives.sft import Sft

OBJECTIVES: dict[str, Callable[[], Objective]] = {"sft": Sft}


def make_objective(name: str) -> Objective:
    """The objective of that name.

    Raises:
        RecipeError: There is none.
    """
    if name not in OBJECTIVES:
        raise RecipeError(
            "no such objective",
            code="recipe.objective",
            place="objective",
            value=name,
            hint=f"objectives of this version: {', '.join(OBJECTIVES)}",
        )
    return OBJECTIVES[name]()
