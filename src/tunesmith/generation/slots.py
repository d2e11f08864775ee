"""A key/value cache with a shared prefix, and the attention that reads it.

Every row's own tokens stand in slots 0, 1, 2, ... without gaps, whatever the other rows' lengths are, and the prefix
that all rows have in common is stored once, with batch size 1. So a token's position is ``prefix + slot`` in every
row, sliding windows need no special storage, and attention over the prefix is one matrix product for all rows
instead of a copy of the prefix for each.

Transformers' models hand keys and values to ``SlotCache.update`` and then call the attention function registered
under :data:`ATTENTION`, with the cache passed through as the keyword ``slot_cache``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION = "tunesmith_slots"
_GROWTH_SLOTS = 64

KeyValue = tuple[torch.Tensor, torch.Tensor]


class SlotCache:
    """Keys and values of a batch: ``[rows, heads, slots, head size]`` a layer, and of the prefix: ``[1, ...]``."""

    def __init__(self, prefix: list[KeyValue] | None = None) -> None:
        self.prefix = prefix
        self.prefix_length = prefix[0][0].shape[2] if prefix else 0
        self._layers: dict[int, KeyValue] = {}
        self._positions = torch.empty(0)
        self._slots = torch.empty(0)
        self._used = 0
        self._even_start: int | None = None
        self._masks: dict[int | None, torch.Tensor | None] = {}

    def place(self, positions: torch.Tensor, lengths: list[int]) -> None:
        """Say where the next forward's tokens belong.

        Args:
            positions: Slot of each token, ``[rows, tokens]``; -1 marks padding.
            lengths: Tokens that each row will own after this forward.
        """
        tokens = positions.shape[1]
        self._used = max(lengths)
        even = min(lengths) == self._used and self._used >= tokens
        self._even_start = self._used - tokens if even else None
        # Padding is written to a slot past all others, which no query may see.
        self._slots = torch.where(positions < 0, self._used, positions)
        self._positions = positions.clamp(min=0)
        self._masks = {}

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any) -> KeyValue:
        """Store a layer's new keys and values; return all that the rows own."""
        if layer_idx not in self._layers:
            self._layers[layer_idx] = (key[:, :, :0], value[:, :, :0])
        keys, values = (_with_room(held, self._used + 1) for held in self._layers[layer_idx])
        self._layers[layer_idx] = (keys, values)
        self._write(keys, key)
        self._write(values, value)
        return keys[:, :, : self._used], values[:, :, : self._used]

    def _write(self, held: torch.Tensor, fresh: torch.Tensor) -> None:
        if self._even_start is not None:
            held[:, :, self._even_start : self._used] = fresh
        else:
            held.scatter_(2, self._slots[:, None, :, None].expand_as(fresh), fresh)

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these."""
        self._layers = {at: (k.index_select(0, rows), v.index_select(0, rows)) for at, (k, v) in self._layers.items()}

    def as_prefix(self) -> list[KeyValue]:
        """The single row of this cache as the prefix of another."""
        length = self._used
        return [
            (self._layers[at][0][:, :, :length].contiguous(), self._layers[at][1][:, :, :length].contiguous())
            for at in sorted(self._layers)
        ]

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Which keys each query sees, ``[rows, 1, tokens, prefix + slots]``; None where every query sees all keys."""
        if window is not None and window >= self.prefix_length + self._used:
            window = None
        if window not in self._masks:
            self._masks[window] = self._make_mask(window)
        return self._masks[window]

    def is_plain_causal(self, window: int | None) -> bool:
        """Whether the queries are all the tokens there are, in order, and see everything before them."""
        whole = self.prefix_length == 0 and self._even_start == 0
        return whole and (window is None or window >= self._used)

    def _make_mask(self, window: int | None) -> torch.Tensor | None:
        if window is None and self._even_start is not None and self._positions.shape[1] == 1:
            return None
        query = self._positions[:, None, :, None] + self.prefix_length
        key = torch.arange(self.prefix_length + self._used, device=query.device)
        seen = key <= query
        return seen if window is None else seen & (query - key < window)


def _with_room(held: torch.Tensor, slots: int) -> torch.Tensor:
    room = held.shape[2]
    if room >= slots:
        return held
    # Growing by half keeps the copying small for long answers without reserving the longest one allowed.
    shape = list(held.shape)
    shape[2] = max(slots + _GROWTH_SLOTS, room + room // 2)
    grown = held.new_zeros(shape)
    grown[:, :, :room] = held
    return grown


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  the interface passes it; the cache knows better
    *,
    slot_cache: SlotCache,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of ``query [rows, heads, tokens, size]`` over the prefix and each row's own keys.

    Returns:
        ``[rows, tokens, heads, size]`` and no weights.
    """
    if softcap is None and slot_cache.prefix is None:
        causal = query.shape[2] > 1 and slot_cache.is_plain_causal(sliding_window)
        mask = None if causal else slot_cache.mask(sliding_window)
        out = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=causal,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out.transpose(1, 2), None
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    prefix = slot_cache.prefix[layer] if slot_cache.prefix else None
    mask = slot_cache.mask(sliding_window)
    return _shared_attention(query * scaling, key, value, prefix=prefix, mask=mask, softcap=softcap), None


def _shared_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    prefix: KeyValue | None,
    mask: torch.Tensor | None,
    softcap: float | None,
) -> torch.Tensor:
    rows, heads, tokens, size = query.shape
    groups = key.shape[1]
    per_group = heads // groups * tokens
    query = query.reshape(rows, groups, per_group, size)
    scores = query @ key.transpose(2, 3)
    shared = 0
    if prefix is not None:
        shared = prefix[0].shape[2]
        # All rows' queries of a head group meet the one copy of the prefix in one product.
        flat = query.transpose(0, 1).reshape(groups, rows * per_group, size)
        over_prefix = (flat @ prefix[0][0].transpose(1, 2)).view(groups, rows, per_group, shared).transpose(0, 1)
        scores = torch.cat([over_prefix, scores], dim=3)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        by_query = scores.view(rows, groups, heads // groups, tokens, -1)
        scores = by_query.masked_fill(~mask[:, :, None], float("-inf")).view_as(scores)
    precision = torch.promote_types(torch.float32, scores.dtype)
    weights = torch.softmax(scores, dim=3, dtype=precision).to(value.dtype)
    out = weights[..., shared:] @ value
    if prefix is not None:
        flat = weights[..., :shared].transpose(0, 1).reshape(groups, rows * per_group, shared)
        out = out + (flat @ prefix[1][0]).view(groups, rows, per_group, size).transpose(0, 1)
    return out.reshape(rows, heads, tokens, size).transpose(1, 2).contiguous()


AttentionInterface.register(ATTENTION, slot_attention)
