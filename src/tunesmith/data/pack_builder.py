"""A pack in the making: beginnings that rows share, each computed once, and rows behind them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tunesmith.data.types import Pack, Segment, TokenIds, TokenRow


@dataclass(frozen=True)
class Beginning:
    """What rows or longer beginnings continue: its segment, and the place in the pack of each token up to its end."""

    segment: int
    places_T: TokenIds


@dataclass
class PackBuilder:
    """Collects beginnings and rows in order; a beginning stands before all that continue it."""

    _tokens: list[TokenIds] = field(default_factory=list)
    _positions: list[TokenIds] = field(default_factory=list)
    _segments: list[Segment] = field(default_factory=list)
    _label_positions: list[TokenIds] = field(default_factory=list)
    _labels: list[TokenIds] = field(default_factory=list)
    _label_rows: list[TokenIds] = field(default_factory=list)
    _items: list[int] = field(default_factory=list)
    _kinds: list[int] = field(default_factory=list)

    def add_beginning(self, tokens: TokenIds, parent: Beginning | None = None) -> Beginning:
        """Add the tokens of a beginning from the row's first on; those of ``parent`` are there already."""
        places_T = self._add_segment(tokens, parent)
        return Beginning(len(self._segments) - 1, places_T)

    def add_row(self, item: int, row: TokenRow, beginning: Beginning | None) -> None:
        """Add what a row has of its own, and its labels."""
        places_T = self._add_segment(row.token_ids_T, beginning)
        trained = np.flatnonzero(row.trained_T).astype(np.int64)
        labels_T = row.label_ids_T
        self._label_positions.append(places_T[trained - 1 if labels_T is None else trained])
        self._labels.append((row.token_ids_T if labels_T is None else labels_T)[trained])
        self._label_rows.append(np.full(len(trained), len(self._items), dtype=np.int64))
        self._items.append(item)
        self._kinds.append(row.kind)

    def build(self) -> Pack:
        """The pack."""
        return Pack(
            token_ids_T=np.concatenate(self._tokens).astype(np.int64),
            position_ids_T=np.concatenate(self._positions),
            segments=tuple(self._segments),
            label_positions_L=np.concatenate(self._label_positions),
            labels_L=np.concatenate(self._labels).astype(np.int64),
            label_rows_L=np.concatenate(self._label_rows),
            rows=tuple(self._items),
            kinds_S=np.asarray(self._kinds, dtype=np.int64),
        )

    def _add_segment(self, tokens: TokenIds, parent: Beginning | None) -> TokenIds:
        """Add what comes behind the parent; gives the place of every token, those of the parent included."""
        inherited = np.empty(0, dtype=np.int64) if parent is None else parent.places_T
        start = self._segments[-1].end if self._segments else 0
        own = len(tokens) - len(inherited)
        self._tokens.append(tokens[len(inherited) :])
        self._positions.append(np.arange(len(inherited), len(tokens), dtype=np.int64))
        self._segments.append(Segment(start, start + own, None if parent is None else parent.segment))
        return np.concatenate([inherited, np.arange(start, start + own, dtype=np.int64)])
