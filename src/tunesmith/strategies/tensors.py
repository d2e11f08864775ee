"""Whole tensors that are gathered one after another, so that no rank ever holds all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch


class Tensors(Protocol):
    """Named tensors; a dict is one, and so is :class:`OneByOne`."""

    def items(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Names and tensors."""


class OneByOne:
    """Tensors that are made when they are asked for, once: whoever asks again gets those that are left."""

    def __init__(self, pairs: Iterator[tuple[str, torch.Tensor]]) -> None:
        self._pairs = pairs

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Those that nobody has asked for yet."""
        return self._pairs


def go_through(tensors: Tensors) -> None:
    """Ask for all that are left, as ranks do that need none of them: the others cannot gather without them."""
    for _ in tensors.items():
        continue
