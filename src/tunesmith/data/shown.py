"""A row as readable pieces, each with the mark whether it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tunesmith.data.types import TokenRow

_BROKEN = "\ufffd"
# More tokens than the bytes of any character; a text that really holds the broken mark is not grouped beyond this.
_MOST_TOKENS_OF_A_CHARACTER = 8


@dataclass(frozen=True)
class Piece:
    """The text of one token, or of the tokens that make up one character, and whether it trains.

    ``label`` is what a head learns to say there, empty where it says nothing.
    """

    text: str
    trained: bool
    label: str = ""


def pieces_of(tokenizer: Any, row: TokenRow, label_name: Callable[[int], str] | None = None) -> tuple[Piece, ...]:
    """A row cut into pieces whose texts, joined, are the decoded row.

    ``label_name`` puts labels of a head into words; then what trains are the pieces that have one.
    """
    ids = row.token_ids_T.tolist()
    pieces: list[Piece] = []
    # A token's text may depend on the one before it (leading spaces), so each is read behind the group before.
    context = begin = 0
    for end in range(1, len(ids) + 1):
        before, whole = _decode(tokenizer, ids[context:begin]), _decode(tokenizer, ids[context:end])
        unfinished = whole.endswith(_BROKEN) and end - begin < _MOST_TOKENS_OF_A_CHARACTER
        if end < len(ids) and (unfinished or not whole.startswith(before)):
            continue
        text, trained_T = whole.removeprefix(before), row.trained_T[begin:end]
        if label_name is None or row.label_ids_T is None:
            pieces.append(Piece(text, bool(trained_T.any())))
        else:
            label = ", ".join(filter(None, map(label_name, row.label_ids_T[begin:end][trained_T].tolist())))
            pieces.append(Piece(text, bool(label), label))
        context, begin = begin, end
    return tuple(pieces)


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
