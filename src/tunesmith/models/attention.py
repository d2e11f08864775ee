"""Attention for packs: each token sees its own row and nothing else, without a mask over the whole pack.

Transformers' models call the function registered under :data:`ATTENTION` with queries, keys and values of one pack,
and the pack's :class:`PackPlan` as the keyword ``pack_plan``. Each segment is attended to by itself: a segment without
ancestors with plain causal attention on its slice; segments that continue a shared prefix in small groups whose
queries meet ``[prefix, own keys]`` under a mask of that size. Keys are never repeated for groups of query heads. On a
GPU, in half precision and without soft caps, one call does all segments; see :mod:`tunesmith.models.varlen`. On a CPU
in bfloat16 matrix products take the place of PyTorch's kernel; see :mod:`tunesmith.models.product_attention`.

Shape suffixes: T tokens of the pack, Q queries and K keys of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from tunesmith.errors import ModelError
from tunesmith.models.product_attention import product_attention, takes_products
from tunesmith.models.varlen import VarlenPlan, plan_varlen, takes_varlen, varlen_attention

if TYPE_CHECKING:
    from tunesmith.data.types import Segment

ATTENTION = "tunesmith_packed"

# Families whose packed losses and gradients are tested to equal those of single rows under the library's attention.
PACKED_FAMILIES = frozenset(
    {"bert", "gemma", "gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"},
)
# Those of them whose tokens see what follows them too; their rows share no prefix.
BIDIRECTIONAL_FAMILIES = frozenset({"bert"})
_FIXED_ROPE_TYPES = frozenset({"default", "linear", "yarn", "llama3"})
# Siblings share one call up to so many queries: fewer calls and copies of the prefix against more masked-out scores.
_SIBLING_QUERIES = 64


def supports_packing(config: Any, longest_row_tokens: int | None = None) -> str | None:
    """Why rows of a model cannot be packed with equal results, or None where they can.

    Args:
        config: The model's transformers config.
        longest_row_tokens: Tokens of the longest row, if known. Position encodings that change with the length of
            the text are the same for all rows only up to a length that the config names.
    """
    family = config.model_type
    if family not in PACKED_FAMILIES or not type(config).__module__.startswith("transformers."):
        return f"packing is not tested for models of type {family}"
    if family in BIDIRECTIONAL_FAMILIES:
        # Transformers takes the place of each token as given, and nothing else in the model knows of neighbours.
        return None if not getattr(config, "is_decoder", False) else "the model is a decoder with an encoder's name"
    if getattr(config, "use_bidirectional_attention", False) or not getattr(config, "is_causal", True):
        return "the model's tokens also see what follows them"
    if getattr(config, "attention_dropout", 0.0):
        return "the model drops attention weights at random in training (attention_dropout)"
    rope = getattr(config, "rope_parameters", None) or {}
    # One set of parameters, or one for each type of layer.
    for parameters in rope.values() if rope and all(isinstance(value, dict) for value in rope.values()) else [rope]:
        kind = parameters.get("rope_type", "default")
        if kind in _FIXED_ROPE_TYPES:
            continue
        limit = parameters.get("original_max_position_embeddings") or config.max_position_embeddings
        if kind not in {"longrope", "dynamic"} or longest_row_tokens is None or longest_row_tokens > limit:
            return f"position encodings of type {kind} depend on the length of the row"
    return None


@dataclass(frozen=True)
class _Block:
    """Neighbouring segments attended to in one call: ``segments[first:last]``, and the segments they all continue."""

    first: int
    last: int
    ancestors: tuple[int, ...]
    is_causal: bool
    row_tokens: int


@dataclass(frozen=True)
class PackPlan:
    """How one pack's attention is cut into calls; see :func:`plan_attention`."""

    segment_sizes: list[int]
    block_sizes: list[int]
    blocks: list[_Block]
    segment_of_T: torch.Tensor
    positions_T: torch.Tensor
    varlen: VarlenPlan | None = None
    # Keys and values of each layer for a first segment that has no tokens (prefix tuning).
    past: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None
    # Layers with the same window share their masks.
    _masks: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict, repr=False)

    def mask(self, block_at: int, window: int | None) -> torch.Tensor:
        """Which keys each query of a block sees, ``[Q, K]``; keys are the ancestors' tokens, then the block's own."""
        if (block_at, window) not in self._masks:
            self._masks[block_at, window] = self._make_mask(self.blocks[block_at], window)
        return self._masks[block_at, window]

    def keys_of(self, pieces: Sequence[torch.Tensor], block: _Block) -> torch.Tensor:
        """Keys or values of a block, out of the pack's cut into segments along dimension 2."""
        wanted = [pieces[at] for at in (*block.ancestors, *range(block.first, block.last))]
        return wanted[0] if len(wanted) == 1 else torch.cat(wanted, dim=2)

    def _make_mask(self, block: _Block, window: int | None) -> torch.Tensor:
        own = range(block.first, block.last)
        segment_of_Q, positions_Q = self._tokens_of(own)
        segment_of_K, positions_K = self._tokens_of([*block.ancestors, *own])
        distance_QK = positions_Q[:, None] - positions_K
        inherited_K = segment_of_K < block.first
        # All of an ancestor's tokens lie before a block's, so for them the distance is positive.
        seen_QK = (inherited_K | (segment_of_Q[:, None] == segment_of_K)) & (distance_QK >= 0)
        return seen_QK if window is None else seen_QK & (distance_QK < window)

    def _tokens_of(self, segments: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        segment_of = torch.split(self.segment_of_T, self.segment_sizes)
        positions = torch.split(self.positions_T, self.segment_sizes)
        return torch.cat([segment_of[at] for at in segments]), torch.cat([positions[at] for at in segments])


def plan_attention(segments: Sequence[Segment], positions_T: torch.Tensor) -> PackPlan:
    """Cut a pack's attention into calls, once for all layers.

    Args:
        segments: The pack's segments, in order and without gaps.
        positions_T: Position of each token along its row.
    """
    sizes = [segment.end - segment.start for segment in segments]
    blocks = _blocks(segments)
    device = positions_T.device
    segment_of_T = torch.arange(len(sizes), device=device).repeat_interleave(torch.tensor(sizes, device=device))
    varlen = plan_varlen(segments, device) if device.type == "cuda" else None
    block_sizes = [sum(sizes[block.first : block.last]) for block in blocks]
    return PackPlan(sizes, block_sizes, blocks, segment_of_T, positions_T, varlen)


def _blocks(segments: Sequence[Segment]) -> list[_Block]:
    blocks: list[_Block] = []
    first = 0
    while first < len(segments):
        parent = segments[first].parent
        last = first + 1
        queries = segments[first].end - segments[first].start
        while parent is not None and last < len(segments) and segments[last].parent == parent:
            queries += segments[last].end - segments[last].start
            if queries > _SIBLING_QUERIES:
                break
            last += 1
        ancestors = _ancestors(segments, parent)
        inherited = sum(segments[at].end - segments[at].start for at in ancestors)
        longest = max(segment.end - segment.start for segment in segments[first:last])
        blocks.append(_Block(first, last, ancestors, parent is None, inherited + longest))
        first = last
    return blocks


def _ancestors(segments: Sequence[Segment], parent: int | None) -> tuple[int, ...]:
    found: list[int] = []
    while parent is not None:
        found.append(parent)
        parent = segments[parent].parent
    return tuple(reversed(found))


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    pack_plan: PackPlan | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each row of a pack.

    Args:
        module: The layer's attention module; ``is_causal`` False lets every token see its whole row.
        query: ``[1, heads, T, size]``.
        key: ``[1, key heads, T, size]``.
        value: ``[1, key heads, T, size]``.
        attention_mask: None; the plan says what is seen.
        scaling: Factor of the scores.
        pack_plan: The pack's plan.
        dropout: 0; see :func:`supports_packing`.
        sliding_window: Tokens along its row that a token sees, itself included; None for all.
        softcap: Bound that scores approach, or None.

    Returns:
        ``[1, T, heads, size]`` and no weights.

    Raises:
        ModelError: The model was not called through ``label_logits``, or asks for what packing does not do.
    """
    if pack_plan is None or attention_mask is not None or dropout:
        raise ModelError(
            "attention for packs was called without a pack, or with a mask or dropout",
            code="model.attention",
            hint='load the model with attention "sdpa" or "eager" to call it in another way',
        )
    if pack_plan.varlen is not None and softcap is None and takes_varlen(query):
        causal = getattr(module, "is_causal", True)
        out = varlen_attention(
            query, key, value, pack_plan.varlen, scaling=scaling, window=sliding_window, is_causal=causal
        )
        return out, None
    if pack_plan.past is not None:
        layer: Any = module
        past_key, past_value = pack_plan.past[layer.layer_idx]
        key = torch.cat([past_key.to(key.dtype), key], dim=2)
        value = torch.cat([past_value.to(value.dtype), value], dim=2)
    pieces = zip(
        torch.split(query, pack_plan.block_sizes, dim=2),
        _by_block(key, pack_plan),
        _by_block(value, pack_plan),
        strict=True,
    )
    outs = []
    for at, (block_query, block_key, block_value) in enumerate(pieces):
        block = pack_plan.blocks[at]
        window = None if sliding_window is None or sliding_window >= block.row_tokens else sliding_window
        if softcap is not None:
            mask = pack_plan.mask(at, window)
            out = _capped_attention(block_query * scaling, block_key, block_value, mask, softcap)
        else:
            both_ways = not getattr(module, "is_causal", True)
            if both_ways and not (block.is_causal and window is None):
                raise ModelError(
                    "rows of a pack share a prefix or a window, which tokens that see both ways cannot",
                    code="model.attention",
                    hint="lay rows out without a shared prefix",
                )
            plain = block.is_causal and window is None
            seen = None if plain else pack_plan.mask(at, window)
            # In training also where no gradient is asked for: a reference has to be rounded as what is trained.
            if module.training and not both_ways and takes_products(block_query, block_key):
                out = product_attention(block_query, block_key, block_value, seen, scaling)
            else:
                out = _attention(block_query, block_key, block_value, seen, scaling, both_ways=both_ways)
        outs.append(out.transpose(1, 2))
    return torch.cat(outs, dim=1), None


def _by_block(keys: torch.Tensor, plan: PackPlan) -> list[torch.Tensor]:
    pieces = torch.split(keys, plan.segment_sizes, dim=2)
    return [plan.keys_of(pieces, block) for block in plan.blocks]


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    *,
    both_ways: bool = False,
) -> torch.Tensor:
    """Attention under a mask; where there is none, each query sees what precedes it, or with ``both_ways`` all."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and mask is not None and query.device.type != "cpu":
        # Off the CPU, no fused kernel takes a mask together with fewer key heads than query heads.
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        groups = 1
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None and not both_ways,
        scale=scaling,
        enable_gqa=groups > 1,
    )


def _capped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    softcap: float,
) -> torch.Tensor:
    """Attention with bounded scores, which no fused kernel computes; ``query`` is scaled already."""
    _, heads, queries, size = query.shape
    key_heads = key.shape[1]
    by_key_head = query.reshape(1, key_heads, heads // key_heads * queries, size)
    scores = torch.tanh(by_key_head @ key.transpose(2, 3) / softcap) * softcap
    masked = scores.view(1, heads, queries, -1).masked_fill(~mask, float("-inf"))
    precision = torch.promote_types(torch.float32, scores.dtype)
    weights = torch.softmax(masked, dim=3, dtype=precision).to(value.dtype)
    out = weights.view(1, key_heads, heads // key_heads * queries, -1) @ value
    return out.view(1, heads, queries, size)


AttentionInterface.register(ATTENTION, packed_attention)
