"""What an optimizer remembers, as named tensors.

Numbers that are no tensors are kept as tensors of one number: ``number.<kind>.<weight>``, and ``group.<at>.<kind>``
where an optimizer counts something for a whole group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tunesmith.errors import CheckpointError, Problem
from tunesmith.techniques.base import State

_NUMBER, _GROUP = "number", "group"
# What Schedule-Free counts for a group, and which kinds of state are shaped as the weights.
_COUNTED = ("k", "weight_sum", "lr_max", "train_mode")
_LIKE_WEIGHTS = ("exp_avg", "exp_avg_sq", "z", "state1", "state2")


def read_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Moments and counts as ``<kind>.<weight>``; empty before the first step."""
    found: State = {}
    seen: set[int] = set()
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                # bitsandbytes has one table of numbers for all weights; a file wants each tensor apart.
                here = value.to_local() if isinstance(value, DTensor) else value
                place = here.untyped_storage().data_ptr()
                found[f"{kind}.{name}"] = value.detach().clone() if place in seen else value.detach()
                seen.add(place)
            elif value is not None:
                found[f"{_NUMBER}.{kind}.{name}"] = torch.tensor(value, dtype=torch.float64)
    if found:
        for at, group in enumerate(optimizer.param_groups):
            found |= {
                f"{_GROUP}.{at}.{kind}": torch.tensor(float(group[kind]), dtype=torch.float64)
                for kind in _COUNTED
                if kind in group
            }
    return found


def put_moments(model: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Put back what :func:`read_moments` gave.

    Raises:
        CheckpointError: It belongs to other weights.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    loaded: dict[str, dict[str, Any]] = {}
    counted: dict[int, dict[str, float]] = {}
    problems: list[Problem] = []
    for key, tensor in state.items():
        first, _, rest = key.partition(".")
        if first == _GROUP:
            number, _, kind = rest.partition(".")
            counted.setdefault(int(number), {})[kind] = tensor.item()
            continue
        kind, _, name = rest.partition(".") if first == _NUMBER else (first, "", rest)
        parameter = trained.get(name)
        if parameter is None or (kind in _LIKE_WEIGHTS and tensor.shape != parameter.shape):
            problems.append(Problem("checkpoint.optimizer", "the saved state fits no weight of this model", value=key))
        elif first == _NUMBER:
            loaded.setdefault(name, {})[kind] = int(tensor.item()) if kind == "step" else tensor.item()
        else:
            loaded.setdefault(name, {})[kind] = tensor.to(parameter.device)
    if problems or any(at >= len(optimizer.param_groups) for at in counted):
        raise CheckpointError("the saved optimizer state is not that of this model", problems=problems)
    for name, values in loaded.items():
        optimizer.state[trained[name]].update(values)
    for at, numbers in counted.items():
        group: dict[str, Any] = optimizer.param_groups[at]
        group.update({kind: type(group[kind])(value) for kind, value in numbers.items()})
