"""Weights, gradients and moments cut over the ranks, each layer gathered when it is used (FSDP2, torch's fully_shard).

Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from tunesmith.errors import TrainingError
from tunesmith.models.allocator import give_back_always
from tunesmith.strategies.gradients import clip_gradients
from tunesmith.strategies.group import Group
from tunesmith.strategies.held import Held, held_by
from tunesmith.strategies.moments import put_moments, read_moments
from tunesmith.strategies.tensors import OneByOne
from tunesmith.techniques.base import State, Technique


@dataclass(frozen=True)
class Fsdp:
    """Fully sharded data parallel; see :class:`tunesmith.strategies.base.Strategy` for each method."""

    group: Group
    offload: bool = False
    keeps_whole: bool = False
    can_try: bool = True

    def share_out(self, model: nn.Module) -> nn.Module:
        """The model with every weight cut; trained weights are those of the main rank.

        Raises:
            TrainingError: A weight is still whole afterwards.
        """
        give_back_always()
        self.group.copy_from_main([p.data for p in model.parameters() if p.requires_grad])
        mesh = init_device_mesh(self.group.device.type, (self.group.world_size,))
        pinned = self.group.device.type == "cuda"
        policy = CPUOffloadPolicy(pin_memory=pinned) if self.offload else OffloadPolicy()
        for layer in [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]:
            fully_shard(layer, mesh=mesh, offload_policy=policy)
        # Else what lies outside of the layers would stay whole behind a forward without a backward pass, under other
        # parameters than the optimizer knows.
        fully_shard(model, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
        whole = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
        if whole:
            raise TrainingError("weights were not cut", code="training.not_sharded", value=", ".join(whole[:3]))
        return model

    def join(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:  # noqa: ARG002
        """The optimizer as it is: it knows this rank's parts only."""
        return optimizer

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:  # noqa: ARG002
        """Gradients are averaged over the ranks on the way, and should be summed."""
        (loss * self.group.world_size).backward()  # type: ignore[no-untyped-call]

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing is left to do: every backward pass has reduced its own."""

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
        """The norm of the whole, from the parts."""
        return clip_gradients(parameters, max_norm)

    def held(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Held:
        """This rank's parts."""
        return held_by(model, optimizer, offloaded=_is_offloaded(model))

    def weights(self, technique: Technique, model: nn.Module) -> OneByOne:
        """On the main rank, in the host's memory."""
        return OneByOne(self._gather(technique.trainable_state(model)))

    def put_weights(self, technique: Technique, model: nn.Module, state: State) -> None:
        """This rank's parts, on their device."""
        technique.load_trainable_state(model, _scatter(state, technique.trainable_state(model)))

    def moments(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> OneByOne:
        """On the main rank, in the host's memory."""
        return OneByOne(self._gather(read_moments(model, optimizer)))

    def put_moments(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
        """This rank's parts, cut as the weights are."""
        weights = dict(model.named_parameters())
        like = {key: weights[name] for key in state if (name := key.partition(".")[2]) in weights}
        put_moments(model, optimizer, _scatter(state, like))

    def close(self) -> None:
        """Nobody but the caller holds anything."""

    def _gather(self, state: State) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole tensors in the main rank's memory, one after another; nothing on the others."""
        for name, one in state.items():
            whole = one.full_tensor() if isinstance(one, DTensor) else one
            if self.group.is_main:
                yield name, whole.cpu()


def _is_offloaded(model: nn.Module) -> bool:
    """Whether torch keeps every part in the host's memory; without a GPU no device of a tensor would tell."""
    groups = [one._get_fsdp_state()._fsdp_param_group for one in model.modules() if isinstance(one, FSDPModule)]
    return all(part.offload_to_cpu for group in groups if group is not None for part in group.fsdp_params)


def _scatter(state: State, like: Mapping[str, torch.Tensor]) -> State:
    return {name: _cut(tensor, like.get(name)) for name, tensor in state.items()}


def _cut(tensor: torch.Tensor, like: torch.Tensor | None) -> torch.Tensor:
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    # Every rank has read the whole tensor, so nothing is sent.
    there = tensor.to(like.device_mesh.device_type)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)
