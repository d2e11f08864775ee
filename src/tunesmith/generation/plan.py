"""Which rows run together, and what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Below this a prefix costs more in small matrix products than it saves.
_SHORTEST_PREFIX = 8


@dataclass(frozen=True)
class Batch:
    """Rows (by their index) that run together after ``prefix_length`` shared tokens.

    ``alone`` marks a single row that can outgrow the length up to which positions are rotated in one way.
    """

    rows: tuple[int, ...]
    prefix_length: int
    alone: bool


def plan_batches(sizes: Mapping[int, tuple[int, int]], tokens_per_batch: int) -> list[tuple[int, ...]]:
    """Group rows of similar length.

    Args:
        sizes: For each row its own prompt tokens and the most tokens it may add.
        tokens_per_batch: Bound of rows x (longest prompt + most new tokens); a single row may exceed it.

    Returns:
        Row indices, longest rows first, so that a batch that is too large for the machine fails at once.
    """
    batches: list[list[int]] = []
    tallest = 0
    for row in sorted(sizes, key=lambda row: (-sum(sizes[row]), row)):
        if batches and (len(batches[-1]) + 1) * tallest <= tokens_per_batch:
            batches[-1].append(row)
        else:
            batches.append([row])
            tallest = sum(sizes[row])
    return [tuple(batch) for batch in batches]


def common_prefix_length(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, leaving each at least one of its own; 0 where sharing does not pay."""
    if len(prompts) < 2:
        return 0
    # Whatever the smallest and the largest have in common, all between them have too.
    first, last = min(prompts, key=tuple), max(prompts, key=tuple)
    most = min(len(prompt) for prompt in prompts) - 1
    length = next((at for at in range(most) if first[at] != last[at]), most)
    return length if length >= _SHORTEST_PREFIX else 0


def context_length(model: Any) -> int | None:
    """The most positions the model knows, None where its config does not say."""
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def changing_rotation_limit(model: Any) -> int | None:
    """The length after which a model rotates positions in another way, None for models that never do."""
    config = model.config.get_text_config()
    rotation = getattr(config, "rope_parameters", None) or {}
    if rotation.get("rope_type") == "longrope":
        limit = rotation.get("original_max_position_embeddings")
        return int(limit or config.original_max_position_embeddings)
    if rotation.get("rope_type") == "dynamic":
        return int(config.max_position_embeddings)
    return None
