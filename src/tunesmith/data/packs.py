"""The rows of a step as packs: rows behind one another without padding, common beginnings computed once.

How rows are laid out changes the work of a step and nothing else: every trained token is a label exactly once, and
every token sees its own row alone (see :class:`~tunesmith.data.types.Segment`). Rows of one item (a pair of answers)
stay in one pack.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from tunesmith.data.pack_builder import PackBuilder
from tunesmith.data.types import Pack, TokenIds, TokenRow
from tunesmith.errors import SupervisionError, UsageError
from tunesmith.recipe.packing import own_room

Layout = Literal["packed", "padded"]

# Measured on a CPU, a step gets shorter by about the share of tokens saved, down to a tenth; less is not worth a mask.
SMALLEST_SAVING = 0.05


@dataclass(frozen=True)
class _Unit:
    """Rows that stay in one pack: one alone, or several behind the ``prefix`` tokens that they all begin with.

    ``tokens`` go through the model for them, not counted those that all rows of the step begin with.
    """

    rows: tuple[int, ...]
    prefix: int
    tokens: int


def lay_out(
    rows: Sequence[tuple[int, TokenRow]],
    *,
    tokens_per_micro_batch: int,
    layout: Layout = "packed",
    share_prefix: bool = True,
    ranks: int = 1,
) -> list[Pack]:
    """Lay rows out in packs of at most ``tokens_per_micro_batch`` tokens; a longer item gets a pack of its own.

    Longer rows that begin alike share a pack of what they begin with and half of that bound
    (:func:`tunesmith.recipe.packing.own_room`).

    Args:
        rows: Item and tokens of each row; the item comes back in ``Pack.rows``. Neighbours of one item stay together.
        tokens_per_micro_batch: Tokens that go through the model at once, a shared prefix counted once.
        layout: ``packed`` fills packs by best fit decreasing; ``padded`` puts each item into a pack of its own.
        share_prefix: Compute what rows have in common before their first trained token once, where that saves a
            notable share of their tokens.
        ranks: For how many processes, which take turns at the packs: of more than one each gets about as many tokens,
            where there are items enough.

    Returns:
        Packs that depend on the arguments alone. In a pack, rows that share a prefix stand together; otherwise rows
        keep their order. Prefixes form a tree of two levels: what all rows of the step begin with, and behind it what
        some of them begin with. Rows of an item with several rows share more than the first with each other only.

    Raises:
        UsageError: The bound is not positive.
        SupervisionError: A row is empty or trains its first token, which nothing predicts.
    """
    if tokens_per_micro_batch < 1:
        raise UsageError("a pack needs room for at least 1 token", code="usage.tokens_per_micro_batch")
    for _, row in rows:
        if len(row.token_ids_T) == 0 or (row.label_ids_T is None and row.trained_T[0]):
            raise SupervisionError(
                "a row is empty or trains its first token, which nothing predicts",
                code="supervision.first_token",
                place=row.place,
            )
    lengths = [len(row.token_ids_T) for _, row in rows]
    items = _items([item for item, _ in rows])
    if layout == "padded":
        return [_pack(rows, [_Unit((at,), 0, lengths[at]) for at in item], 0) for item in items]
    root = _root(rows) if share_prefix else 0
    several = {at for item in items if len(item) > 1 for at in item}
    units = [_item_unit(rows, item, root, share_prefix=share_prefix) for item in items if len(item) > 1]
    if share_prefix:
        sharable = [at for at in range(len(rows)) if at not in several]
        for prefix, members in _common_beginnings([rows[at][1] for at in sharable], root):
            units += _divide([sharable[at] for at in members], prefix, root, lengths, tokens_per_micro_batch)
    shared = {at for unit in units for at in unit.rows}
    units += [_Unit((at,), 0, length - root) for at, length in enumerate(lengths) if at not in shared]
    units.sort(key=lambda unit: unit.rows)
    sizes = [unit.tokens for unit in units]
    bound = own_room(tokens_per_micro_batch, root, root + max(sizes, default=0))
    bins = _best_fit(sizes, bound)
    if ranks > 1 and units:
        bins = _evenly(sizes, bound, math.ceil(len(bins) / ranks) * ranks) or bins
    return [_pack(rows, [units[at] for at in places], root) for places in bins]


def _root(rows: Sequence[tuple[int, TokenRow]]) -> int:
    """How many tokens all rows begin with, where computing them once a pack pays; 0 where it does not."""
    if len(rows) < 2:
        return 0
    first = rows[0][1].token_ids_T
    root = min(_sharable_tokens(row) for _, row in rows)
    for _, row in rows[1:]:
        root = _common_length(first[:root], row.token_ids_T)
    return root if _pays((len(rows) - 1) * root, sum(len(row.token_ids_T) for _, row in rows)) else 0


def _items(indices: Sequence[int]) -> list[tuple[int, ...]]:
    """Places of neighbours with the same index."""
    starts = [at for at in range(len(indices)) if at == 0 or indices[at] != indices[at - 1]]
    return [tuple(range(start, end)) for start, end in pairwise([*starts, len(indices)])]


def _item_unit(rows: Sequence[tuple[int, TokenRow]], item: tuple[int, ...], root: int, *, share_prefix: bool) -> _Unit:
    """The rows of one item, behind what they have in common where sharing pays."""
    keys = [rows[at][1].token_ids_T[: _sharable_tokens(rows[at][1])] for at in item]
    whole = sum(len(rows[at][1].token_ids_T) - root for at in item)
    prefix = min(_common_length(keys[0], key) for key in keys) if share_prefix else 0
    saved = (len(item) - 1) * (prefix - root)
    return _Unit(item, prefix, whole - saved) if _pays(saved, whole) else _Unit(item, 0, whole)


def _best_fit(sizes: Sequence[int], bound: int) -> list[list[int]]:
    """Indices by bin: largest first, each into the fullest bin that has room; what exceeds the bound stays alone."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for at in sorted(range(len(sizes)), key=lambda at: -sizes[at]):
        found = bisect.bisect_left(room, (sizes[at], 0))
        if found < len(room):
            free, into = room.pop(found)
        else:
            free, into = bound, len(bins)
            bins.append([])
        bins[into].append(at)
        if free > sizes[at]:
            bisect.insort(room, (free - sizes[at], into))
    return [sorted(places) for places in bins]


def _evenly(sizes: Sequence[int], bound: int, count: int) -> list[list[int]] | None:
    """Indices by bin, largest first into the emptiest of ``count`` bins, or fewer where there are fewer sizes.

    The fullest bins come first. None where several sizes in one bin exceed the bound.
    """
    filled = [(0, into) for into in range(min(count, len(sizes)))]
    bins: list[list[int]] = [[] for _ in filled]
    for at in sorted(range(len(sizes)), key=lambda at: -sizes[at]):
        tokens, into = heapq.heappop(filled)
        bins[into].append(at)
        heapq.heappush(filled, (tokens + sizes[at], into))
    if any(tokens > bound and len(bins[into]) > 1 for tokens, into in filled):
        return None
    return [sorted(bins[into]) for _, into in sorted(filled, key=lambda one: (-one[0], one[1]))]


def _divide(members: list[int], prefix: int, root: int, lengths: Sequence[int], bound: int) -> list[_Unit]:
    """Rows with a common prefix as units that fit into packs; those whose share of it saves too little are left out."""
    units = []
    room = own_room(bound, prefix, max(lengths[at] for at in members))
    for places in _best_fit([lengths[at] - prefix for at in members], room):
        rows = tuple(sorted(members[place] for place in places))
        whole = sum(lengths[at] - root for at in rows)
        saved = (len(rows) - 1) * (prefix - root)
        if _pays(saved, whole):
            units.append(_Unit(rows, prefix, whole - saved))
    return units


def _pays(saved: int, whole: int) -> bool:
    return saved >= SMALLEST_SAVING * whole


def _common_beginnings(rows: Sequence[TokenRow], root: int) -> Iterator[tuple[int, list[int]]]:
    """Groups of rows that begin alike, the one that saves most first: length of the common beginning, and the rows.

    The first ``root`` tokens, which all rows have in common, are counted in that length and not as saved.

    In lexicographic order, rows that begin alike are neighbours, and what a run of neighbours has in common is the
    least that two of them have. So the group that saves most is the largest rectangle under those numbers.
    """
    keys = [row.token_ids_T[root : _sharable_tokens(row)] for row in rows]
    # Big-endian bytes compare like the numbers they hold.
    order = sorted(range(len(rows)), key=lambda at: keys[at].astype(">i8").tobytes())
    common = [_common_length(keys[a], keys[b]) for a, b in pairwise(order)]
    while True:
        lengths = [len(rows[at].token_ids_T) - root for at in order]
        found = _best_rectangle(common, lengths)
        if found is None:
            return
        start, end, prefix = found
        yield root + prefix, order[start:end]
        del order[start:end]
        # The rows before and behind the group become neighbours, with what all between them had in common.
        across = common[max(0, start - 1) : end]
        common[max(0, start - 1) : end] = [min(across)] if 0 < start < len(order) else []


def _sharable_tokens(row: TokenRow) -> int:
    """Tokens before the first trained one; one token at least stays the row's own."""
    first_trained = int(row.trained_T.argmax()) if row.trained_T.any() else len(row.trained_T)
    return min(first_trained, len(row.token_ids_T) - 1)


def _common_length(one: TokenIds, other: TokenIds) -> int:
    shorter = min(len(one), len(other))
    differs = one[:shorter] != other[:shorter]
    return int(differs.argmax()) if differs.any() else shorter


def _best_rectangle(common: Sequence[int], lengths: Sequence[int]) -> tuple[int, int, int] | None:
    """Start, end and common length of the neighbours that save most tokens, among those for whom sharing pays."""
    until = [0, *accumulate(lengths)]
    best: tuple[int, int, int] | None = None
    best_saved = 0
    open_from: list[tuple[int, int]] = []
    for at, height in enumerate([*common, 0]):
        start = at
        while open_from and open_from[-1][1] > height:
            start, prefix = open_from.pop()
            saved = (at - start) * prefix
            if saved > best_saved and _pays(saved, until[at + 1] - until[start]):
                best, best_saved = (start, at + 1, prefix), saved
        if height and (not open_from or open_from[-1][1] < height):
            open_from.append((start, height))
    return best


def _pack(rows: Sequence[tuple[int, TokenRow]], units: Sequence[_Unit], root: int) -> Pack:
    """One pack; ``root`` tokens begin every row of it, and are laid out once where there are several units."""
    builder = PackBuilder()
    first = rows[units[0].rows[0]][1].token_ids_T
    common = builder.add_beginning(first[:root]) if root and len(units) > 1 else None
    for unit in units:
        beginning = common
        if unit.prefix > (root if common else 0):
            beginning = builder.add_beginning(rows[unit.rows[0]][1].token_ids_T[: unit.prefix], common)
        for at in unit.rows:
            builder.add_row(*rows[at], beginning)
    return builder.build()
