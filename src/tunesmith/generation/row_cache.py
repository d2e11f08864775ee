"""Keys and values of rows that come and go while the others go on, for :mod:`tunesmith.generation.slots`' attention.

Rows stand densely from 0; the place of one that leaves is taken by the last. Every row's tokens stand in slots 0, 1,
2, ..., whatever the lengths of the others, so a step writes one slot in each row and moves nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.generation.slots import KeyValue

_GROWTH_SLOTS = 64


class RowCache:
    """Keys and values, ``[room for rows, heads, room for slots, head size]`` a layer."""

    # What slot attention asks for; rows of different requests share no prefix.
    prefix: list[KeyValue] | None = None
    prefix_length = 0

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self._layers: dict[int, KeyValue] = {}
        self._positions = torch.empty(0)
        self._rows = torch.empty(0)
        self._used = 0
        self._masks: dict[int | None, torch.Tensor | None] = {}

    @property
    def memory_bytes(self) -> int:
        """What the tensors take, room that is not used included."""
        return sum(one.numel() * one.element_size() for pair in self._layers.values() for one in pair)

    def join(self, layers: list[KeyValue], times: int = 1) -> None:
        """Add the same row several times; its keys and values are ``[1, heads, slots, head size]`` a layer."""
        length = layers[0][0].shape[2]
        first = len(self.lengths)
        for at, fresh in enumerate(layers):
            held = self._layers.get(at) or tuple(one[:0, :, :0] for one in fresh)
            roomy = tuple(_with_room(one, first, self._longest(), first + times, length + 1) for one in held)
            for one, new in zip(roomy, fresh, strict=True):
                one[first : first + times, :, :length] = new
            self._layers[at] = (roomy[0], roomy[1])
        self.lengths += [length] * times

    def leave(self, row: int) -> None:
        """Drop a row; the last one takes its place. Without rows all memory is given back."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            for pair in self._layers.values():
                for held in pair:
                    held[row, :, :length] = held[last, :, :length]
            self.lengths[row] = length
        self.lengths.pop()
        if not self.lengths:
            self._layers = {}

    def begin_step(self, device: torch.device) -> torch.Tensor:
        """Make room for one token a row; the tokens' positions, ``[rows, 1]``."""
        positions = torch.tensor(self.lengths, device=device)
        self._positions = positions
        self._rows = torch.arange(len(self.lengths), device=device)
        self.lengths = [length + 1 for length in self.lengths]
        self._used = max(self.lengths)
        self._masks = {}
        return positions[:, None]

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any) -> KeyValue:
        """Store a layer's new keys and values, one token a row; return all that the rows own."""
        rows = len(self.lengths)
        keys, values = (_with_room(held, rows, self._used - 1, rows, self._used) for held in self._layers[layer_idx])
        self._layers[layer_idx] = (keys, values)
        keys[self._rows, :, self._positions] = key[:, :, 0]
        values[self._rows, :, self._positions] = value[:, :, 0]
        return keys[:rows, :, : self._used], values[:rows, :, : self._used]

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Which keys each query sees, ``[rows, 1, 1, slots]``; None where every query sees all."""
        if window is not None and window >= self._used:
            window = None
        if window not in self._masks:
            even = min(self.lengths) == self._used
            self._masks[window] = None if even and window is None else self._make_mask(window)
        return self._masks[window]

    def is_plain_causal(self, window: int | None) -> bool:  # noqa: ARG002  slot attention asks with it
        """A step's queries are never all the tokens there are."""
        return False

    def _longest(self) -> int:
        return max(self.lengths, default=0)

    def _make_mask(self, window: int | None) -> torch.Tensor:
        query = self._positions[:, None, None, None]
        key = torch.arange(self._used, device=query.device)
        seen = key <= query
        return seen if window is None else seen & (query - key < window)


def _with_room(held: torch.Tensor, used_rows: int, used_slots: int, rows: int, slots: int) -> torch.Tensor:
    """Room for so many rows and slots. Where one of them grows, the other shrinks to what is in use.

    Else the cache would keep room for as many rows as there ever were, each as long as the longest ever was.
    """
    have_rows, have_slots = held.shape[0], held.shape[2]
    if have_rows >= rows and have_slots >= slots:
        return held
    shape = list(held.shape)
    shape[0] = max(rows, used_rows + used_rows // 2) if rows > have_rows else max(rows, used_rows)
    longest = max(slots, used_slots)
    shape[2] = max(longest + _GROWTH_SLOTS, used_slots + used_slots // 2 if slots > have_slots else 0)
    grown = held.new_zeros(shape)
    grown[:used_rows, :, :used_slots] = held[:used_rows, :, :used_slots]
    return grown
