"""What a strategy is: how ranks share the work of one optimizer step. The training loop sees nothing else of it.

Every rank runs the same program in step with the others, so whatever a rank decides by itself (a clock, a wish of the
user) has to be agreed on, and methods marked *together* are called by all ranks or by none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import nn

from tunesmith.strategies.group import Group
from tunesmith.strategies.held import Held
from tunesmith.strategies.tensors import Tensors
from tunesmith.techniques.base import State, Technique


class Strategy(Protocol):
    """How ranks share the work."""

    @property
    def group(self) -> Group:
        """The ranks, and which of them this one is."""

    @property
    def keeps_whole(self) -> bool:
        """Whether every rank has the whole model, during training and after it."""

    @property
    def can_try(self) -> bool:
        """Whether the gradients of packs can be thrown away, and learning begin anew."""

    def share_out(self, model: nn.Module) -> nn.Module:
        """The model as this rank holds it, before there is an optimizer. Together."""

    def join(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer as this rank steps it, before anything was learned. Together."""

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradients of one pack, which is the last one of its step or not. Together.

        ``loss`` is divided by the trained tokens of the whole step.
        """

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum what all ranks' packs have added, where that has not happened yet. Together, behind the last pack."""

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
        """Scale gradients to a total norm of at most ``max_norm``; the norm before that, over all ranks. Together."""

    def held(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Held:
        """What this rank holds now: gradients between a pack and the optimizer's step, moments behind that."""

    def weights(self, technique: Technique, model: nn.Module) -> Tensors:
        """What the technique trains, whole, on the main rank at least. Every rank goes through all of it, together."""

    def put_weights(self, technique: Technique, model: nn.Module, state: State) -> None:
        """Each rank takes its part of what :meth:`weights` gave. Together.

        Raises:
            CheckpointError: It belongs to another model.
        """

    def moments(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
        """What the optimizer remembers, by the names of :mod:`.moments`; as :meth:`weights`, and behind them."""

    def put_moments(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
        """Each rank takes its part of what :meth:`moments` gave. Together.

        Raises:
            CheckpointError: It belongs to another model.
        """

    def close(self) -> None:
        """Let go of what a library holds of model and optimizer, which were shared out for the last time."""
