"""The strategies by name: one row each."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tunesmith.errors import RecipeError
from tunesmith.strategies.base import Strategy
from tunesmith.strategies.single import Single

STRATEGIES: dict[str, Callable[[torch.device], Strategy]] = {"single": Single}


def make_strategy(name: str, device: str) -> Strategy:
    """The strategy of that name on ``device`` (``cpu``, ``cuda``, ``cuda:1``).

    Raises:
        RecipeError: There is none.
    """
    if name not in STRATEGIES:
        raise RecipeError(
            "no such strategy",
            code="recipe.strategy",
            place="strategy",
            value=name,
            hint=f"strategies of this version: {', '.join(STRATEGIES)}",
        )
    return STRATEGIES[name](torch.device(device))
