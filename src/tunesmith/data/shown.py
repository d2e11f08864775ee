"""A row as readable pieces, each with the mark whether it trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunesmith.data.types import TokenRow

_BROKEN = "\ufffd"
# More tokens than the bytes of any character; a text that really holds the broken mark is not grouped beyond this.
_MOST_TOKENS_OF_A_CHARACTER = 8


@dataclass(frozen=True)
class Piece:
    """The text of one token, or of the tokens that make up one character, and whether it trains."""

    text: str
    trained: bool


def pieces_of(tokenizer: Any, row: TokenRow) -> tuple[Piece, ...]:
    """A row cut into pieces whose texts, joined, are the decoded row."""
    ids = row.token_ids_T.tolist()
    pieces: list[Piece] = []
    # A token's text may depend on the one before it (leading spaces), so each is read behind the group before.
    context = begin = 0
    for end in range(1, len(ids) + 1):
        before, whole = _decode(tokenizer, ids[context:begin]), _decode(tokenizer, ids[context:end])
        unfinished = whole.endswith(_BROKEN) and end - begin < _MOST_TOKENS_OF_A_CHARACTER
        if end < len(ids) and (unfinished or not whole.startswith(before)):
            continue
        pieces.append(Piece(whole.removeprefix(before), bool(row.trained_T[begin:end].any())))
        context, begin = begin, end
    return tuple(pieces)


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
