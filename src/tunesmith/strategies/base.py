"""What a strategy is: how ranks share the work of one optimizer step. The training loop sees nothing else of it.

Every rank runs the same program in step with the others, so whatever a rank decides by itself (a clock, a wish of the
user) has to be agreed on, and methods marked *together* are called by all ranks or by none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

State = dict[str, torch.Tensor]


class Strategy(Protocol):
    """How ranks share the work."""

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""

    @property
    def rank(self) -> int:
        """This process among all, from 0."""

    @property
    def world_size(self) -> int:
        """How many processes train together."""

    @property
    def is_main(self) -> bool:
        """True for the one rank that writes events and checkpoints."""

    @property
    def keeps_whole(self) -> bool:
        """Whether every rank has the whole model, during training and after it."""

    def share_out(self, model: nn.Module) -> nn.Module:
        """The model as this rank holds it, before there is an optimizer. Together."""

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of one pack; ``loss`` is divided by the trained tokens of the whole step. Together."""

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum what all ranks' packs have added, where that has not happened yet. Together, behind the last pack."""

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
        """Scale gradients to a total norm of at most ``max_norm``; the norm before that, over all ranks. Together."""

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks. Together."""

    def agree(self, value: Any) -> Any:
        """What the main rank has in mind. Together."""

    def gather(self, state: Mapping[str, torch.Tensor]) -> State:
        """Whole tensors out of the ranks' parts, on the main rank at least. Together."""

    def scatter(self, state: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> State:
        """This rank's parts of whole tensors, cut as the tensors of the same names in ``like``. Together."""
