"""Gradients of one process or of many: their total norm, and how it is bounded."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
    """Scale gradients where their total norm exceeds ``max_norm``; the norm before that, with one transfer to the host.

    Gradients that are cut over ranks have the norm of the whole; all ranks call this.
    """
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(with_gradient, max_norm, norm)
    return float(norm)


def fill_missing(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    """The gradients of all parameters, zeros where this rank's packs reached none of a weight."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    return gradients
