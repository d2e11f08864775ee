"""The strategies by name: one row each."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tunesmith.errors import RecipeError
from tunesmith.strategies.base import Strategy
from tunesmith.strategies.ddp import Ddp
from tunesmith.strategies.fsdp import Fsdp
from tunesmith.strategies.group import current_group
from tunesmith.strategies.single import Single

STRATEGIES: dict[str, Callable[[torch.device], Strategy]] = {
    "single": Single,
    "ddp": lambda device: Ddp(current_group(device)),
    "fsdp": lambda device: Fsdp(current_group(device)),
}


def make_strategy(name: str, device: str) -> Strategy:
    """The strategy of that name on ``device`` (``cpu``, ``cuda``, ``cuda:1``).

    Raises:
        RecipeError: There is none.
        UsageError: It needs several processes, and this one was started alone.
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
