"""In words, what of a model trains."""

from __future__ import annotations

from collections import Counter

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def trained_modules(model: nn.Module) -> dict[str, int]:
    """Names of the modules that train or have an adapter that does, and how many there are of each.

    A module's name is the last part of its full name that is no number.
    """
    adapted = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    holders: dict[str, None] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner = name.rpartition(".")[0]
            holders[next((layer for layer in adapted if owner.startswith(layer + ".")), owner)] = None
    return dict(Counter(_own_name(holder) for holder in holders))


def describe_trained(model: nn.Module) -> str:
    """The same as one line: ``q_proj x 30, v_proj x 30, lm_head``."""
    counted = trained_modules(model).items()
    return ", ".join(f"{name} x {count}" if count > 1 else name for name, count in counted)


def _own_name(module: str) -> str:
    skipped = ("default", "modules_to_save", "token_adapter", "original_module")
    parts = [part for part in module.split(".") if not part.isdigit() and part not in skipped]
    return parts[-1] if parts else module
