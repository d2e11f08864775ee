"""The strategies by name: one row each."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tunesmith.errors import RecipeError
from tunesmith.strategies.base import Strategy
from tunesmith.strategies.fsdp import Fsdp
from tunesmith.strategies.group import Group, current_group
from tunesmith.strategies.replicated import Replicated
from tunesmith.strategies.zero import Zero

STRATEGIES: dict[str, Callable[[torch.device, bool], Strategy]] = {
    "single": lambda device, _: Replicated(Group(0, 1, device)),
    "ddp": lambda device, _: Replicated(current_group(device)),
    "fsdp": lambda device, offload: Fsdp(current_group(device), offload=offload),
    "zero1": lambda device, offload: Zero(current_group(device), 1, offload),
    "zero2": lambda device, offload: Zero(current_group(device), 2, offload),
    "zero3": lambda device, offload: Zero(current_group(device), 3, offload),
}


def make_strategy(name: str, device: str, *, offload: bool = False) -> Strategy:
    """The strategy of that name on ``device`` (``cpu``, ``cuda``, ``cuda:1``).

    With ``offload`` what it cuts is kept in the host's memory; ``single`` and ``ddp`` cut nothing.

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
    return STRATEGIES[name](torch.device(device), offload)
