"""What every exported model is asked, whichever program runs it.

Shape suffixes: T tokens of a row, L places of a row, K likeliest tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# So many of the likeliest tokens are compared one by one, all others as one.
LIKELIEST = 100


@dataclass(frozen=True)
class Likeliest:
    """The likeliest next tokens of each place: their numbers and natural logarithms of their probabilities.

    Places may have fewer than K; those are filled up with token -1 of probability 0.
    """

    ids_L_K: NDArray[np.int64]
    log_probabilities_L_K: NDArray[np.float64]


class TextRuntime(Protocol):
    """A model that writes."""

    def likeliest(self, token_ids_T: Sequence[int], positions_L: Sequence[int]) -> Likeliest:
        """The tokens that may follow each position, :data:`LIKELIEST` of them."""

    def continue_greedily(
        self, prompt_T: Sequence[int], max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[int]:
        """The likeliest tokens one after the other, without the stop token."""

    def encode(self, text: str) -> list[int]:
        """A text as the exported tokenizer makes tokens of it, special ones around it included."""


class ScoreRuntime(Protocol):
    """A model with a head, or one that gives states of texts."""

    def scores(self, token_ids_T: Sequence[int]) -> NDArray[np.float32]:
        """Scores of a row's classes, of classes at each token, or of states at each token: last axis is what counts."""


def likeliest_of(log_probabilities_L_V: NDArray[Any]) -> Likeliest:
    """The likeliest tokens of each place."""
    count = min(LIKELIEST, log_probabilities_L_V.shape[-1])
    ids_L_K = np.argpartition(-log_probabilities_L_V, count - 1, axis=-1)[:, :count].astype(np.int64)
    found_L_K = np.take_along_axis(log_probabilities_L_V, ids_L_K, axis=-1).astype(np.float64)
    order_L_K = np.argsort(-found_L_K, axis=-1, kind="stable")
    return Likeliest(np.take_along_axis(ids_L_K, order_L_K, axis=-1), np.take_along_axis(found_L_K, order_L_K, axis=-1))


def log_softmax(logits_L_V: NDArray[Any]) -> NDArray[np.float64]:
    """Logits as natural logarithms of probabilities."""
    high_L_V = logits_L_V.astype(np.float64)
    high_L_V -= high_L_V.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = high_L_V - np.log(np.exp(high_L_V).sum(axis=-1, keepdims=True))
    return result
