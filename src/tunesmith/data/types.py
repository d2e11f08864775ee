"""What the engine eats: token rows, and packs of them.

Shape suffixes: T tokens of a row or pack, L labels of a pack, B rows of a set.
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

    ``token_ids_T`` are all tokens, the template's included. ``trained_T`` says which of them the model learns to
    produce; the first token of a row is never trained, since nothing comes before it. ``place`` names file and line.
    """

    token_ids_T: TokenIds
    trained_T: Flags
    place: str


class TokenSet(Protocol):
    """The rows of a data set, in their order; may lie on disk."""

    @property
    def lengths_B(self) -> TokenIds:
        """Tokens of each row."""

    @property
    def trained_counts_B(self) -> TokenIds:
        """Trained tokens of each row."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TokenRow: ...


@dataclass(frozen=True)
class Segment:
    """A stretch of a pack whose tokens see themselves, what precedes them in it, and all of its ancestors.

    ``parent`` is the index of an earlier segment of the pack that this one continues (a shared prefix), or None.
    Positions go on where the parent's end.
    """

    start: int
    end: int
    parent: int | None = None


@dataclass(frozen=True)
class Pack:
    """Rows laid out one behind the other, without padding, to go through the model in one forward.

    ``token_ids_T`` and ``position_ids_T`` have one entry a token. ``segments`` cover all tokens in order.
    ``label_positions_L`` are the tokens whose next token is trained, ``labels_L`` those next tokens; the two are
    stored apart because the token that predicts a row's first own token can be the last token of a shared prefix,
    and then one position has one label for each row that continues it. ``label_rows_L`` says which row of
    ``rows`` each label belongs to (an index into it), so that losses can be told row by row.
    """

    token_ids_T: TokenIds
    position_ids_T: TokenIds
    segments: tuple[Segment, ...]
    label_positions_L: TokenIds
    labels_L: TokenIds
    label_rows_L: TokenIds
    rows: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return len(self.token_ids_T)


Batch = Sequence[Pack]
