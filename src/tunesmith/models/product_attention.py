"""Attention as matrix products, for training in bfloat16 on a processor.

PyTorch's fused attention on a CPU spends three times as long in its backward pass in bfloat16 as matrix products of the
same size do. Here queries go in blocks, each with the keys that it may see and no others; scores and softmax are
float32, probabilities and the other products bfloat16. Against float64 the gradients are as near as the fused ones or
nearer. Probabilities of short texts are kept for the backward pass, those of long ones are made again, so that memory
grows with the length and not with its square.

Shape suffixes: Q queries and K keys of one block, R queries of all heads that read the same keys, D size of a head;
a leading dimension of key heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

_BLOCK_QUERIES = 96
# Measured: half the fused kernel's time up to 400 keys, three quarters at 800, the same at 1,600.
_MOST_KEYS = 1024
# Up to so many probabilities a head are kept; those of a text of 724 tokens, 0.5 MB a head.
_MOST_KEPT = 2**18


def takes_products(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether the products are faster for a training on queries of this type and device."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and key.shape[2] <= _MOST_KEYS


def product_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen_QK: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Attention of one text, or of several under a mask.

    Args:
        query: ``[1, heads, queries, D]``.
        key: ``[1, key heads, keys, D]``; heads are a multiple of key heads.
        value: ``[1, key heads, keys, D]``.
        seen_QK: Which keys each query sees; None: those up to its own place, as many keys as queries.
        scaling: Factor of the scores.

    Returns:
        ``[1, heads, queries, D]``.
    """
    out: torch.Tensor = _ProductAttention.apply(query, key, value, seen_QK, scaling)  # type: ignore[no-untyped-call]
    return out


@dataclass(frozen=True)
class _Block:
    """Queries ``start`` to ``end``, which see no key from ``keys`` on.

    ``hidden_QK`` is added to the scores of the block's last keys: minus infinity where a key is not seen.
    """

    start: int
    end: int
    keys: int
    hidden_QK: torch.Tensor


def _blocks(queries: int, seen_QK: torch.Tensor | None) -> Iterator[_Block]:
    count = max(1, round(queries / _BLOCK_QUERIES))
    bounds = [queries * at // count for at in range(count + 1)]
    for start, end in pairwise(bounds):
        if seen_QK is None:
            yield _Block(start, end, end, torch.full((end - start, end - start), float("-inf")).triu_(1))
        else:
            hidden_QK = torch.zeros(end - start, seen_QK.shape[1]).masked_fill_(~seen_QK[start:end], float("-inf"))
            yield _Block(start, end, seen_QK.shape[1], hidden_QK)


class _ProductAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        seen_QK: torch.Tensor | None,
        scaling: float,
    ) -> torch.Tensor:
        out = torch.empty(query.shape, dtype=query.dtype)
        blocks = list(_blocks(query.shape[2], seen_QK))
        kept = sum((block.end - block.start) * block.keys for block in blocks) <= _MOST_KEPT
        saved = []
        for block in blocks:
            query_R_D = _of_block(query, block, key.shape[1]) * scaling
            weights_R_K = _weights(query_R_D, key[0, :, : block.keys], block)
            out[0, :, block.start : block.end] = torch.bmm(weights_R_K, value[0, :, : block.keys]).view(
                query.shape[1], -1, query.shape[3]
            )
            saved += [weights_R_K] if kept else []
        ctx.blocks, ctx.scaling, ctx.kept = blocks, scaling, kept
        ctx.save_for_backward(query, key, value, *saved)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *saved = ctx.saved_tensors
        blocks: Sequence[_Block] = ctx.blocks
        query_gradient = torch.empty(query.shape, dtype=query.dtype)
        key_gradient, value_gradient = torch.zeros_like(key), torch.zeros_like(value)
        # Last block first: it has all keys, so that the others add to what is already there.
        for at in reversed(range(len(blocks))):
            block = blocks[at]
            key_K_D, value_K_D = key[0, :, : block.keys], value[0, :, : block.keys]
            query_R_D = _of_block(query, block, key.shape[1]) * ctx.scaling
            weights_R_K = saved[at] if ctx.kept else _weights(query_R_D, key_K_D, block)
            gradient_R_D = _of_block(gradient, block, key.shape[1])
            scores_R_K = torch._softmax_backward_data(
                torch.bmm(gradient_R_D, value_K_D.transpose(1, 2)), weights_R_K, -1, query.dtype
            )
            value_gradient[0, :, : block.keys] += torch.bmm(weights_R_K.transpose(1, 2), gradient_R_D)
            key_gradient[0, :, : block.keys] += torch.bmm(scores_R_K.transpose(1, 2), query_R_D)
            query_gradient[0, :, block.start : block.end] = torch.bmm(scores_R_K, key_K_D).view(
                query.shape[1], -1, query.shape[3]
            )
        return query_gradient.mul_(ctx.scaling), key_gradient, value_gradient, None, None


def _of_block(tensor: torch.Tensor, block: _Block, key_heads: int) -> torch.Tensor:
    """The rows of a block, those of all heads that read the same keys behind one another, ``[key heads, R, D]``."""
    return tensor[0, :, block.start : block.end].reshape(key_heads, -1, tensor.shape[3])


def _weights(query_R_D: torch.Tensor, key_K_D: torch.Tensor, block: _Block) -> torch.Tensor:
    """How much each query takes of each key, ``[key heads, R, K]``."""
    scores_R_K = torch.bmm(query_R_D.float(), key_K_D.float().transpose(1, 2))
    by_head = scores_R_K.view(-1, block.end - block.start, block.keys)
    by_head[:, :, block.keys - block.hidden_QK.shape[1] :].add_(block.hidden_QK)
    return torch.softmax(scores_R_K, dim=-1).to(query_R_D.dtype)
