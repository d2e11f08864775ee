"""The rows of a step as packs: rows behind one another without padding, common beginnings computed once.

How rows are laid out changes the work of a step and nothing else: every trained token is a label exactly once, and
every token sees its own row alone (see :class:`~tunesmith.data.types.Segment`). Rows of one item (a pair of answers)
stay in one pack.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np

from tunesmith.data.types import Pack, Segment, TokenIds, TokenRow
from tunesmith.errors import SupervisionError, UsageError

Layout = Literal["packed", "padded"]

# Measured on a CPU, a step gets shorter by about the share of tokens saved, down to a tenth; less is not worth a mask.
SMALLEST_SAVING = 0.05


@dataclass(frozen=True)
class _Unit:
    """Rows that stay in one pack: one alone, or several behind the ``prefix`` tokens that they all begin with."""

    rows: tuple[int, ...]
    prefix: int
    tokens: int


def lay_out(
    rows: Sequence[tuple[int, TokenRow]],
    *,
    tokens_per_micro_batch: int,
    layout: Layout = "packed",
    share_prefix: bool = True,
) -> list[Pack]:
    """Lay rows out in packs of at most ``tokens_per_micro_batch`` tokens; a longer item gets a pack of its own.

    Args:
        rows: Item and tokens of each row; the item comes back in ``Pack.rows``. Neighbours of one item stay together.
        tokens_per_micro_batch: Tokens that go through the model at once, a shared prefix counted once.
        layout: ``packed`` fills packs by best fit decreasing; ``padded`` puts each item into a pack of its own.
        share_prefix: Compute what rows have in common before their first trained token once, where that saves a
            notable share of their tokens.

    Returns:
        Packs that depend on the arguments alone. In a pack, rows that share a prefix stand together; otherwise rows
        keep their order. Rows of an item with several rows share a prefix with each other only.

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
        return [_pack(rows, [_Unit((at,), 0, lengths[at]) for at in item]) for item in items]
    several = {at for item in items if len(item) > 1 for at in item}
    units = [_item_unit(rows, item, share_prefix=share_prefix) for item in items if len(item) > 1]
    if share_prefix:
        sharable = [at for at, length in enumerate(lengths) if length <= tokens_per_micro_batch and at not in several]
        for prefix, members in _common_beginnings([rows[at][1] for at in sharable]):
            units += _divide([sharable[at] for at in members], prefix, lengths, tokens_per_micro_batch)
    shared = {at for unit in units for at in unit.rows}
    units += [_Unit((at,), 0, length) for at, length in enumerate(lengths) if at not in shared]
    units.sort(key=lambda unit: unit.rows)
    bins = _best_fit([unit.tokens for unit in units], tokens_per_micro_batch)
    return [_pack(rows, [units[at] for at in places]) for places in bins]


def _items(indices: Sequence[int]) -> list[tuple[int, ...]]:
    """Places of neighbours with the same index."""
    starts = [at for at in range(len(indices)) if at == 0 or indices[at] != indices[at - 1]]
    return [tuple(range(start, end)) for start, end in pairwise([*starts, len(indices)])]


def _item_unit(rows: Sequence[tuple[int, TokenRow]], item: tuple[int, ...], *, share_prefix: bool) -> _Unit:
    """The rows of one item, behind what they have in common where sharing pays."""
    keys = [rows[at][1].token_ids_T[: _sharable_tokens(rows[at][1])] for at in item]
    whole = sum(len(rows[at][1].token_ids_T) for at in item)
    prefix = min(_common_length(keys[0], key) for key in keys) if share_prefix else 0
    saved = (len(item) - 1) * prefix
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


def _divide(members: list[int], prefix: int, lengths: Sequence[int], bound: int) -> list[_Unit]:
    """Rows with a common prefix as units that fit into packs; those whose share of it saves too little are left out."""
    units = []
    for places in _best_fit([lengths[at] - prefix for at in members], bound - prefix):
        rows = tuple(sorted(members[place] for place in places))
        whole = sum(lengths[at] for at in rows)
        saved = (len(rows) - 1) * prefix
        if _pays(saved, whole):
            units.append(_Unit(rows, prefix, whole - saved))
    return units


def _pays(saved: int, whole: int) -> bool:
    return saved >= SMALLEST_SAVING * whole


def _common_beginnings(rows: Sequence[TokenRow]) -> Iterator[tuple[int, list[int]]]:
    """Groups of rows that begin alike, the one that saves most first: length of the common beginning, and the rows.

    In lexicographic order, rows that begin alike are neighbours, and what a run of neighbours has in common is the
    least that two of them have. So the group that saves most is the largest rectangle under those numbers.
    """
    keys = [row.token_ids_T[: _sharable_tokens(row)] for row in rows]
    # Big-endian bytes compare like the numbers they hold.
    order = sorted(range(len(rows)), key=lambda at: keys[at].astype(">i8").tobytes())
    common = [_common_length(keys[a], keys[b]) for a, b in pairwise(order)]
    while True:
        lengths = [len(rows[at].token_ids_T) for at in order]
        found = _best_rectangle(common, lengths)
        if found is None:
            return
        start, end, prefix = found
        yield prefix, order[start:end]
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


@dataclass
class _Builder:
    """A pack in the making."""

    tokens: list[TokenIds] = field(default_factory=list)
    positions: list[TokenIds] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    label_positions: list[TokenIds] = field(default_factory=list)
    labels: list[TokenIds] = field(default_factory=list)
    label_rows: list[TokenIds] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    end: int = 0

    def add_segment(self, tokens: TokenIds, first_position: int, parent: int | None) -> None:
        self.tokens.append(tokens)
        self.positions.append(np.arange(first_position, first_position + len(tokens), dtype=np.int64))
        self.segments.append(Segment(self.end, self.end + len(tokens), parent))
        self.end += len(tokens)

    def add_labels(self, row: TokenRow, row_at: int, prefix_start: int, prefix: int, own_start: int) -> None:
        trained = np.flatnonzero(row.trained_T).astype(np.int64)
        labels_T = row.label_ids_T
        at = trained - 1 if labels_T is None else trained
        self.label_positions.append(np.where(at < prefix, prefix_start + at, own_start + at - prefix))
        self.labels.append((row.token_ids_T if labels_T is None else labels_T)[trained])
        self.label_rows.append(np.full(len(trained), row_at, dtype=np.int64))
        self.kinds.append(row.kind)


def _pack(rows: Sequence[tuple[int, TokenRow]], units: Sequence[_Unit]) -> Pack:
    builder = _Builder()
    order: list[int] = []
    for unit in units:
        prefix_start, parent = builder.end, None
        if unit.prefix:
            parent = len(builder.segments)
            builder.add_segment(rows[unit.rows[0]][1].token_ids_T[: unit.prefix], 0, None)
        for at in unit.rows:
            row = rows[at][1]
            own_start = builder.end
            builder.add_segment(row.token_ids_T[unit.prefix :], unit.prefix, parent)
            builder.add_labels(row, len(order), prefix_start, unit.prefix, own_start)
            order.append(rows[at][0])
    return Pack(
        token_ids_T=np.concatenate(builder.tokens).astype(np.int64),
        position_ids_T=np.concatenate(builder.positions),
        segments=tuple(builder.segments),
        label_positions_L=np.concatenate(builder.label_positions),
        labels_L=np.concatenate(builder.labels).astype(np.int64),
        label_rows_L=np.concatenate(builder.label_rows),
        rows=tuple(order),
        kinds_S=np.asarray(builder.kinds, dtype=np.int64),
    )
