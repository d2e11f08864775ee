"""Every rank holds the whole model and learns from its share of the packs; gradients are summed once a step.

torch's DistributedDataParallel sums gradients during each backward pass, which needs as many passes on every rank.
Packs are not that even, and one sum a step moves less data, so the sum is made here. One rank alone is plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from tunesmith.strategies.gradients import clip_gradients, fill_missing
from tunesmith.strategies.group import Group
from tunesmith.strategies.held import Held, held_by
from tunesmith.strategies.moments import put_moments, read_moments
from tunesmith.techniques.base import State, Technique


@dataclass(frozen=True)
class Replicated:
    """``single`` and ``ddp``; see :class:`tunesmith.strategies.base.Strategy` for each method."""

    group: Group
    keeps_whole: bool = True
    can_try: bool = True

    def share_out(self, model: nn.Module) -> nn.Module:
        """The whole model on every rank, all weights those of the main rank: some beginnings change frozen ones."""
        self.group.copy_from_main([parameter.data for parameter in model.parameters()])
        return model

    def join(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:  # noqa: ARG002
        """The optimizer as it is: every rank takes the whole step."""
        return optimizer

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:  # noqa: ARG002
        """Plain backward."""
        loss.backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """One sum over all ranks."""
        # A weight that no pack of one rank reached has a gradient for all of them.
        if self.group.world_size > 1:
            self.group.sum_tensors(fill_missing(parameters))

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
        """Every rank has the same gradients; one transfer to the host."""
        return clip_gradients(parameters, max_norm)

    def held(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Held:
        """All of it."""
        return held_by(model, optimizer)

    def weights(self, technique: Technique, model: nn.Module) -> State:
        """As they are."""
        return technique.trainable_state(model)

    def put_weights(self, technique: Technique, model: nn.Module, state: State) -> None:
        """As they are."""
        technique.load_trainable_state(model, state)

    def moments(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
        """As they are."""
        return read_moments(model, optimizer)

    def put_moments(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
        """As they are."""
        put_moments(model, optimizer, state)

    def close(self) -> None:
        """Nobody but the caller holds anything."""
