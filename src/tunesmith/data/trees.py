"""Rows in groups as packs: what all rows begin with is computed once a pack, what a group begins with once a group.

The answers to one question are such a group: all questions stand behind the same examples, and all answers behind
their question. :mod:`tunesmith.data.packs` finds such beginnings by itself, where sharing pays; here groups are given.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data.pack_builder import PackBuilder
from tunesmith.data.types import Pack, TokenIds, TokenRow
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


def _pack(groups: Sequence[tuple[Group, int]], root: int) -> Pack:
    builder = PackBuilder()
    common = builder.add_beginning(groups[0][0][0][1].token_ids_T[:root]) if root else None
    for group, beginning in groups:
        own = common
        if beginning > root:
            own = builder.add_beginning(group[0][1].token_ids_T[:beginning], common)
        for index, row in group:
            builder.add_row(index, row, own)
    return builder.build()
