"""The objectives by name: one row each, from the recipe's variant to the objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tunesmith.errors import RecipeError
from tunesmith.objectives.base import Objective
from tunesmith.objectives.sft import Sft


class ObjectiveSpec(Protocol):
    """An objective as the recipe spells it: its name, and whatever fields its variant has."""

    @property
    def name(self) -> str:
        """Key of the table."""


def _sft(spec: Any) -> Objective:
    return Sft(label_smoothing=spec.label_smoothing)


# Text differs from sft in which tokens train, which is the data's matter.
OBJECTIVES: dict[str, Callable[[Any], Objective]] = {"sft": _sft, "text": _sft}


def make_objective(spec: ObjectiveSpec) -> Objective:
    """The objective of a recipe.

    Raises:
        RecipeError: There is none of that name.
    """
    if spec.name not in OBJECTIVES:
        raise RecipeError(
            "no such objective",
            code="recipe.objective",
            place="objective.name",
            value=spec.name,
            hint=f"objectives of this version: {', '.join(OBJECTIVES)}",
        )
    return OBJECTIVES[spec.name](spec)
