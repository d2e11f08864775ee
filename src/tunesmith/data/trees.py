"""Rows in groups as packs: what all rows begin with is computed once a pack, what a group begins with once a group.

The answers to one question are such a group: all questions stand behind the same examples, and all answers behind
their question. :mod:`tunesmith.data.packs` shares one beginning; here it is two, one within the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tunesmith.data.types import Pack, Segment, TokenIds, TokenRow
from tunesmith.errors import SupervisionError, UsageError

Group = Sequence[tuple[int, TokenRow]]


def lay_out_groups(groups: Sequence[Group], *, tokens_per_pack: int) -> list[Pack]:
    """Lay groups of rows out in packs of at most ``tokens_per_pack`` tokens; a longer group gets a pack of its own.

    Args:
        groups: Index and tokens of each row, group by group; the index comes back in ``Pack.rows``. Labels are next
            tokens.
        tokens_per_pack: Tokens that go through the model at once, shared beginnings counted once.

    Returns:
        Packs with the groups in their order, and the rows of a group together and in their order.

    Raises:
        UsageError: The bound is not positive.
        SupervisionError: A row trains nothing, or its first token, which nothing predicts.
    """
    if tokens_per_pack < 1:
        raise UsageError("a pack needs room for at least 1 token", code="usage.tokens_per_pack")
    filled = [group for group in groups if group]
    for group in filled:
        for _, row in group:
            if not row.trained_T.any() or row.trained_T[0]:
                raise SupervisionError(
                    "a row trains nothing, or its first token, which nothing predicts",
                    code="supervision.first_token",
                    place=row.place,
                )
    beginnings = [_common_beginning([_untrained(row) for _, row in group]) for group in filled]
    root = len(_common_beginning(beginnings)) if beginnings else 0
    packs: list[Pack] = []
    waiting: list[tuple[Group, int]] = []
    tokens = root
    for group, beginning in zip(filled, beginnings, strict=True):
        own = sum(len(row.token_ids_T) - len(beginning) for _, row in group) + len(beginning) - root
        if waiting and tokens + own > tokens_per_pack:
            packs.append(_pack(waiting, root))
            waiting, tokens = [], root
        waiting.append((group, len(beginning)))
        tokens += own
    return [*packs, _pack(waiting, root)] if waiting else packs


def _untrained(row: TokenRow) -> TokenIds:
    """What comes before the first trained token, and so can be shared."""
    return row.token_ids_T[: int(row.trained_T.argmax())]


def _common_beginning(rows: Sequence[TokenIds]) -> TokenIds:
    shared = rows[0]
    for row in rows[1:]:
        length = min(len(shared), len(row))
        differs = shared[:length] != row[:length]
        shared = shared[: int(differs.argmax()) if differs.any() else length]
    return shared


@dataclass
class _Builder:
    """A pack in the making: ``add`` gives the places of new tokens."""

    tokens: list[TokenIds] = field(default_factory=list)
    positions: list[TokenIds] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)

    def add(self, tokens: TokenIds, first_position: int, parent: int | None) -> TokenIds:
        start = self.segments[-1].end if self.segments else 0
        self.tokens.append(tokens)
        self.positions.append(np.arange(first_position, first_position + len(tokens), dtype=np.int64))
        self.segments.append(Segment(start, start + len(tokens), parent))
        return np.arange(start, start + len(tokens), dtype=np.int64)


def _pack(groups: Sequence[tuple[Group, int]], root: int) -> Pack:
    builder = _Builder()
    nothing = np.empty(0, dtype=np.int64)
    root_places, root_segment = nothing, None
    if root:
        root_places = builder.add(groups[0][0][0][1].token_ids_T[:root], 0, None)
        root_segment = 0
    label_positions: list[TokenIds] = []
    labels: list[TokenIds] = []
    label_rows: list[TokenIds] = []
    order: list[int] = []
    kinds: list[int] = []
    for group, beginning in groups:
        parent, group_places = root_segment, nothing
        if beginning > root:
            parent = len(builder.segments)
            group_places = builder.add(group[0][1].token_ids_T[root:beginning], root, root_segment)
        for index, row in group:
            own_places = builder.add(row.token_ids_T[beginning:], beginning, parent)
            places_T = np.concatenate([root_places, group_places, own_places])
            trained = np.flatnonzero(row.trained_T)
            label_positions.append(places_T[trained - 1])
            labels.append(row.token_ids_T[trained])
            label_rows.append(np.full(len(trained), len(order), dtype=np.int64))
            order.append(index)
            kinds.append(row.kind)
    return Pack(
        token_ids_T=np.concatenate(builder.tokens).astype(np.int64),
        position_ids_T=np.concatenate(builder.positions),
        segments=tuple(builder.segments),
        label_positions_L=np.concatenate(label_positions),
        labels_L=np.concatenate(labels).astype(np.int64),
        label_rows_L=np.concatenate(label_rows),
        rows=tuple(order),
        kinds_S=np.asarray(kinds, dtype=np.int64),
    )
