"""Every rank holds the whole model and learns from its share of the packs; gradients are summed once a step.

torch's DistributedDataParallel sums gradients during each backward pass, which needs as many passes on every rank.
Packs are not that even, and one sum a step moves less data, so the sum is made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.strategies.base import State
from tunesmith.strategies.gradients import clip_gradients, fill_missing
from tunesmith.strategies.group import Group


@dataclass(frozen=True)
class Ddp:
    """Data parallel; see :class:`tunesmith.strategies.base.Strategy` for each method."""

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
        """Yes."""
        return True

    def share_out(self, model: nn.Module) -> nn.Module:
        """The whole model on every rank, all weights those of the main rank: some beginnings change frozen ones."""
        self.group.copy_from_main([parameter.data for parameter in model.parameters()])
        return model

    def backward(self, loss: torch.Tensor) -> None:
        """Plain backward."""
        loss.backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """One sum over all ranks."""
        self.group.sum_tensors(fill_missing(parameters))

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
        """Every rank has the same gradients."""
        return clip_gradients(parameters, max_norm)

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """Through the group."""
        return self.group.sum_over_ranks(values)

    def agree(self, value: Any) -> Any:
        """Through the group."""
        return self.group.agree(value)

    def gather(self, state: Mapping[str, torch.Tensor]) -> State:
        """The tensors: every rank has them whole."""
        return dict(state)

    def scatter(self, state: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> State:  # noqa: ARG002
        """The tensors."""
        return dict(state)
