"""What one rank holds of a training, counted on its tensors: whether a strategy really cuts what it says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tunesmith.strategies.group import Group


@dataclass(frozen=True)
class Held:
    """Bytes of this rank's weights, gradients and moments, and of copies of trained weights that the optimizer steps.

    Weights that are gathered for a moment are not counted. ``offloaded`` says whether the library that cuts them keeps
    them in the host's memory.
    """

    weights_bytes: int
    gradients_bytes: int
    moments_bytes: int
    copies_bytes: int = 0
    offloaded: bool = False

    def most(self, other: Held) -> Held:
        """The greater of both in each: gradients are gone behind the optimizer's step, moments come with the first."""
        return Held(*map(max, astuple(self), astuple(other)))


def held_by(model: nn.Module, optimizer: torch.optim.Optimizer, *, offloaded: bool = False) -> Held:
    """What lies in the model's parameters and in the optimizer, of tensors that are cut this rank's parts."""
    parameters = list(model.parameters())
    moments = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.ndim > 0
    ]
    return Held(
        part_bytes(parameters),
        part_bytes(parameter.grad for parameter in parameters if parameter.grad is not None),
        part_bytes(moments),
        offloaded=offloaded,
    )


def part_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of this rank's parts, or of the whole where a tensor is not cut."""
    return sum((one.to_local() if isinstance(one, DTensor) else one).nbytes for one in tensors)


def held_by_each(group: Group, own: Held) -> tuple[Held, ...]:
    """What every rank holds, by rank. Together."""
    numbers = astuple(own)
    before, behind = len(numbers) * group.rank, len(numbers) * (group.world_size - 1 - group.rank)
    told = group.sum_over_ranks([*[0.0] * before, *map(float, numbers), *[0.0] * behind])
    starts = range(0, len(told), len(numbers))
    return tuple(_from_numbers(told[start : start + len(numbers)]) for start in starts)


def _from_numbers(numbers: list[float]) -> Held:
    weights, gradients, moments, copies, offloaded = numbers
    return Held(int(weights), int(gradients), int(moments), int(copies), bool(offloaded))
