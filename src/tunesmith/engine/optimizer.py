"""AdamW, and its state as named tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tunesmith.errors import CheckpointError, Problem

State = dict[str, torch.Tensor]


def make_optimizer(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with the usual betas (0.9, 0.999); each group brings its own weight decay.

    The fused form does all weights in one call; on CPU it takes a fraction of the time of the plain one.
    """
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use this rate from the next step on; a group with a ``rate_scale`` takes so many times the rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("rate_scale", 1.0)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Moments and step counts as ``<kind>.<weight>``; empty before the first step."""
    return {
        f"{kind}.{name}": tensor.detach()
        for name, parameter in model.named_parameters()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Put back what :func:`optimizer_state` gave.

    Raises:
        CheckpointError: It belongs to other weights.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    loaded: dict[str, dict[str, torch.Tensor]] = {}
    problems: list[Problem] = []
    for key, tensor in state.items():
        kind, _, name = key.partition(".")
        parameter = trained.get(name)
        if parameter is None or (tensor.ndim and tensor.shape != parameter.shape):
            problems.append(Problem("checkpoint.optimizer", "the saved state fits no weight of this model", value=key))
        else:
            loaded.setdefault(name, {})[kind] = tensor.to(parameter.device)
    if problems:
        raise CheckpointError("the saved optimizer state is not that of this model", problems=problems)
    for name, values in loaded.items():
        optimizer.state[trained[name]].update(values)
