"""Some items of a token set, as a token set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.data.types import TokenIds, TokenRow, TokenSet


@dataclass(frozen=True)
class Subset:
    """The items of ``rows`` at ``indices``, in that order; an index may come more than once. Nothing is copied."""

    rows: TokenSet
    indices: Sequence[int]

    @property
    def lengths_B(self) -> TokenIds:
        """Tokens of each item."""
        return self.rows.lengths_B[np.asarray(self.indices, dtype=np.int64)]

    @property
    def trained_counts_B(self) -> TokenIds:
        """Trained tokens of each item."""
        return self.rows.trained_counts_B[np.asarray(self.indices, dtype=np.int64)]

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, index: int) -> tuple[TokenRow, ...]:
        """The rows of one item."""
        return self.rows.item(self.indices[index])
