"""All segments of a pack in one call: attention of sequences of many lengths, for GPUs.

A segment's queries are one sequence; its keys are those of its ancestors and its own, so what several segments continue
is read once for each. The kernel (FlashAttention 2, Dao 2023) lines queries up with the last of their keys, which makes
causal order within ``[ancestors, own]`` right, and lets windows be counted along the row.

Shape suffixes: T tokens of the pack, S segments, K keys of all segments one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from tunesmith.data.types import Segment

# What the kernel takes: Ampere and later, half precision, heads up to this size.
_LEAST_CAPABILITY = (8, 0)
_LARGEST_HEAD = 256


@dataclass(frozen=True)
class VarlenPlan:
    """Where sequences begin and end.

    ``query_ends`` and ``key_ends`` hold 0 and then the end of each segment's queries and keys, ``[S + 1]``.
    ``key_tokens_K`` is the pack's token behind each key, None where keys are the pack's tokens in order.
    """

    query_ends: torch.Tensor
    key_ends: torch.Tensor
    longest_query: int
    longest_key: int
    key_tokens_K: torch.Tensor | None


def plan_varlen(segments: Sequence[Segment], device: torch.device) -> VarlenPlan:
    """Lay out the sequences of a pack, once for all layers."""
    keys = [[*_ancestors(segments, at), at] for at in range(len(segments))]
    query_lengths = [segment.end - segment.start for segment in segments]
    key_lengths = [sum(query_lengths[piece] for piece in pieces) for pieces in keys]
    shared = any(segment.parent is not None for segment in segments)
    tokens = [torch.arange(segments[piece].start, segments[piece].end) for pieces in keys for piece in pieces]
    return VarlenPlan(
        query_ends=torch.tensor([0, *accumulate(query_lengths)], dtype=torch.int32, device=device),
        key_ends=torch.tensor([0, *accumulate(key_lengths)], dtype=torch.int32, device=device),
        longest_query=max(query_lengths),
        longest_key=max(key_lengths),
        key_tokens_K=torch.cat(tokens).to(device) if shared else None,
    )


def takes_varlen(query: torch.Tensor) -> bool:
    """Whether the kernel takes queries of this type and size, ``[1, heads, T, size]``, on their device."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= _LARGEST_HEAD
        and torch.cuda.get_device_capability(query.device) >= _LEAST_CAPABILITY
    )


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: VarlenPlan,
    *,
    scaling: float,
    window: int | None,
    is_causal: bool,
) -> torch.Tensor:
    """Attention within each row of a pack.

    Args:
        query: ``[1, heads, T, size]``.
        key: ``[1, key heads, T, size]``.
        value: ``[1, key heads, T, size]``.
        plan: The pack's.
        scaling: Factor of the scores.
        window: Tokens along its row that a token sees, itself included; None for all.
        is_causal: False where tokens see their whole row.

    Returns:
        ``[1, T, heads, size]``.
    """
    from torch.nn.attention.varlen import varlen_attn

    key_K, value_K = (_keys(tensor, plan) for tensor in (key, value))
    out_T = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        key_K,
        value_K,
        plan.query_ends,
        plan.key_ends,
        plan.longest_query,
        plan.longest_key,
        scale=scaling,
        window_size=kernel_window(window, is_causal=is_causal),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    assert isinstance(out_T, torch.Tensor)
    return out_T[None]


def kernel_window(window: int | None, *, is_causal: bool) -> tuple[int, int]:
    """A window as the kernel counts it: tokens seen to the left and to the right, the token itself not counted."""
    if not is_causal:
        return (-1, -1)
    return (-1 if window is None else window - 1, 0)


def _keys(tensor: torch.Tensor, plan: VarlenPlan) -> torch.Tensor:
    keys_T = tensor[0].transpose(0, 1)
    return keys_T.contiguous() if plan.key_tokens_K is None else keys_T[plan.key_tokens_K]


def _ancestors(segments: Sequence[Segment], at: int) -> list[int]:
    found: list[int] = []
    parent = segments[at].parent
    while parent is not None:
        found.insert(0, parent)
        parent = segments[parent].parent
    return found
