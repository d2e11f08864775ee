"""Which rows of a set belong together: those that begin with the same document before their first trained token.

Rows of one group that meet in one step share what they begin with (:mod:`tunesmith.data.packs`). Whether they shall
meet more often than by chance is a choice of the recipe, since it changes which rows a step learns from.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from tunesmith.data.steps import Integers
from tunesmith.data.types import TokenSet

# Two rows belong together where so much of what comes before the answer is the same.
_COMMON_SHARE = 0.5
_TOKEN_BYTES = 4


def rows_that_begin_alike(rows: TokenSet) -> Integers:
    """A number for each row, the same for rows of one group; groups are numbered by their first row.

    Rows are put into the order of their tokens; neighbours belong together where they have at least half of the shorter
    one's untrained beginning in common. What all rows begin with, such as an instruction, does not count: it says
    nothing of which of them belong together. Of an item with several rows the first counts.
    """
    first_of = np.arange(len(rows), dtype=np.int64)
    for at, after, _ in _alike(rows):
        first_of[after] = first_of[at]
    _, first_seen, group_of_B = np.unique(first_of, return_index=True, return_inverse=True)
    by_first_row = np.argsort(np.argsort(first_seen))
    return np.asarray(by_first_row[group_of_B], dtype=np.int64)


def group_beginnings(rows: TokenSet) -> tuple[int, int]:
    """The most untrained tokens that two rows of one group begin with, and all that rows have in common with one before
    them; both 0 where no rows belong together."""
    found = [common for _, _, common in _alike(rows)]
    return max(found, default=0), sum(found)


def _alike(rows: TokenSet) -> Iterator[tuple[int, int, int]]:
    """Neighbours in the order of their tokens that belong together, and how many tokens both begin with."""
    beginnings = []
    for index in range(len(rows)):
        row = rows.item(index)[0]
        end = int(row.trained_T.argmax()) if row.trained_T.any() else len(row.token_ids_T)
        # Big-endian bytes compare like the numbers they hold.
        beginnings.append(row.token_ids_T[:end].astype(">i4").tobytes())
    order = sorted(range(len(beginnings)), key=beginnings.__getitem__)
    # In that order, what the first and the last begin with is what all do.
    root = _common_bytes(beginnings[order[0]], beginnings[order[-1]]) if order else 0
    for at, after in pairwise(order):
        one, other = beginnings[at], beginnings[after]
        common = _common_bytes(one, other)
        if common - root >= _COMMON_SHARE * (min(len(one), len(other)) - root) > 0:
            yield at, after, common // _TOKEN_BYTES


def _common_bytes(one: bytes, other: bytes) -> int:
    shorter = min(len(one), len(other))
    differs = np.frombuffer(one[:shorter], np.uint8) != np.frombuffer(other[:shorter], np.uint8)
    return int(differs.argmax()) if differs.any() else shorter
