"""What the engine eats: token rows, and packs of them.

Shape suffixes: T tokens of a row or pack, L labels of a pack, B rows of a set, S sequences of a pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class TokenRow:
    """One row as tokens.

    ``token_ids_T`` are all tokens, the template's included. ``trained_T`` says where something is learned.

    Without ``label_ids_T``, those are the tokens that the model learns to produce; the first token of a row is never
    among them, since nothing comes before it. With it, each marked token has the label of its own place there, for a
    head that classifies tokens or rows.

    ``kind`` tells rows apart that an objective treats differently: 1 is a chosen or wanted answer, 0 any other.
    ``place`` names file and line.
    """

    token_ids_T: TokenIds
    trained_T: Flags
    place: str
    label_ids_T: TokenIds | None = None
    kind: int = 0


class TokenSet(Protocol):
    """The rows of a data set, in their order; may lie on disk.

    What the engine draws, counts and keeps together is an item. For most objectives an item is one row; for pairs of
    answers it is both of them.
    """

    @property
    def lengths_B(self) -> TokenIds:
        """Tokens of each item."""

    @property
    def trained_counts_B(self) -> TokenIds:
        """Trained tokens of each item."""

    def __len__(self) -> int: ...

    def item(self, index: int) -> tuple[TokenRow, ...]:
        """The rows of one item, in their order."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a pack whose tokens see themselves, what precedes them in it, and all of its ancestors.

    ``parent`` is the index of an earlier segment of the pack that this one continues (a shared prefix), or None.
    Positions go on where the parent's end. ``adapter`` names the adapter that the tokens are learned by, where a model
    carries several; None is the one that is active. A segment has that of its parent.
    """

    start: int
    end: int
    parent: int | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Pack:
    """Rows laid out one behind the other, without padding, to go through the model in one forward.

    ``token_ids_T`` and ``position_ids_T`` have one entry a token. ``segments`` cover all tokens in order.
    ``label_positions_L`` are the tokens whose next token is trained, ``labels_L`` those next tokens; the two are
    stored apart because the token that predicts a row's first own token can be the last token of a shared prefix,
    and then one position has one label for each row that continues it. Where labels stand at their own tokens (see
    :class:`TokenRow`), ``label_positions_L`` are those tokens. ``label_rows_L`` says which row of ``rows`` each label
    belongs to (an index into it), so that losses can be told row by row.

    ``rows`` are the items that the pack's rows belong to: rows of one item stand together and in their order, and no
    pack has only some of them. ``kinds_S`` is the kind of each row.
    """

    token_ids_T: TokenIds
    position_ids_T: TokenIds
    segments: tuple[Segment, ...]
    label_positions_L: TokenIds
    labels_L: TokenIds
    label_rows_L: TokenIds
    rows: tuple[int, ...]
    kinds_S: TokenIds

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return len(self.token_ids_T)

    def rows_alone(self) -> list[Pack]:
        """Each row as a pack of its own, in the order of the labels; only for packs without a shared prefix."""
        if len(self.segments) == 1:
            return [self]
        return [self._row_alone(at, segment) for at, segment in enumerate(self.segments)]

    def _row_alone(self, at: int, segment: Segment) -> Pack:
        tokens, mine_L = slice(segment.start, segment.end), self.label_rows_L == at
        return Pack(
            token_ids_T=self.token_ids_T[tokens],
            position_ids_T=self.position_ids_T[tokens],
            segments=(Segment(0, segment.end - segment.start, adapter=segment.adapter),),
            label_positions_L=self.label_positions_L[mine_L] - segment.start,
            labels_L=self.labels_L[mine_L],
            label_rows_L=np.zeros(int(mine_L.sum()), dtype=np.int64),
            rows=self.rows[at : at + 1],
            kinds_S=self.kinds_S[at : at + 1],
        )


Batch = Sequence[Pack]
