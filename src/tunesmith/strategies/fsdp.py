"""Weights, gradients and moments cut over the ranks, each layer gathered when it is used (FSDP2, torch's fully_shard).

Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from tunesmith.errors import TrainingError
from tunesmith.strategies.base import State
from tunesmith.strategies.gradients import clip_gradients
from tunesmith.strategies.group import Group


@dataclass(frozen=True)
class Fsdp:
    """Fully sharded data parallel; see :class:`tunesmith.strategies.base.Strategy` for each method."""

    group: Group

    @property
    def device(self) -> torch.device:
        """The group's."""
        return self.group.device

    @property
    def rank(self) -> int:
        """In the group."""
        return self.group.rank

    @property
    def world_size(self) -> int:
        """Of the group."""
        return self.group.world_size

    @property
    def is_main(self) -> bool:
        """The first rank."""
        return self.group.rank == 0

    @property
    def keeps_whole(self) -> bool:
        """No: each rank has a part of each weight."""
        return False

    def share_out(self, model: nn.Module) -> nn.Module:
        """The model with every weight cut; trained weights are those of the main rank.

        Raises:
            TrainingError: A weight is still whole afterwards.
        """
        self.group.copy_from_main([p.data for p in model.parameters() if p.requires_grad])
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        for layer in [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]:
            fully_shard(layer, mesh=mesh)
        # Else what lies outside of the layers would stay whole behind a forward without a backward pass, under other
        # parameters than the optimizer knows.
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        whole = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
        if whole:
            raise TrainingError("weights were not cut", code="training.not_sharded", value=", ".join(whole[:3]))
        return model

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients are averaged over the ranks on the way, and should be summed."""
        (loss * self.world_size).backward()  # type: ignore[no-untyped-call]

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing is left to do: every backward pass has reduced its own."""

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
        """The norm of the whole, from the parts."""
        return clip_gradients(parameters, max_norm)

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """Through the group."""
        return self.group.sum_over_ranks(values)

    def agree(self, value: Any) -> Any:
        """Through the group."""
        return self.group.agree(value)

    def gather(self, state: Mapping[str, torch.Tensor]) -> State:
        """Cut tensors as whole ones in the main rank's memory, one after another; nothing on the others."""
        found: State = {}
        for name, one in state.items():
            whole = one.full_tensor() if isinstance(one, DTensor) else one
            if self.is_main:
                found[name] = whole.cpu()
        return found

    def scatter(self, state: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> State:
        """This rank's parts, on the device of what they are cut like."""
        return {name: _cut(tensor, like.get(name)) for name, tensor in state.items()}


def _cut(tensor: torch.Tensor, like: torch.Tensor | None) -> torch.Tensor:
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    # Every rank has read the whole tensor, so nothing is sent.
    there = tensor.to(like.device_mesh.device_type)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)
