"""Many texts to tokens at once, with a mark on each token that lies in a stretch of interest.

Rows of one task mostly begin with the same long instruction. What comes before and behind a special token is encoded
apart by the tokenizers library anyway, so the text up to the last special token that all rows of a batch share is
encoded once. A row of each batch is encoded whole as well; if it ever differed, nothing would be shared.

Shape suffixes: T tokens of a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.template import any_of
from tunesmith.data.types import Flags, TokenIds

Span = tuple[int, int]
Encoded = tuple[TokenIds, Flags]

# Sharing costs one more encoding of a row; below this it gains nothing.
_LEAST_SHARED_CHARACTERS = 64
_LEAST_SHARED_ROWS = 3


def encode_texts(tokenizer: Any, texts: Sequence[tuple[str, Sequence[Span]]], *, documents: bool) -> list[Encoded]:
    """Token ids of each text, and which of them lie in its spans.

    Documents are encoded as the tokenizer encodes any text (with its own first token, if it has one) and end with the
    end-of-text token; all but their first token are marked. Other texts come from a template, which has written
    every special token itself.
    """
    if not texts:
        return []
    if documents:
        return _documents(tokenizer, [text for text, _ in texts])
    apart = _apart(tokenizer)
    cut = _shared_length(apart, texts)
    return (_joined(tokenizer, apart, texts, cut) if cut else None) or _marked(tokenizer, texts)


def _joined(
    tokenizer: Any, apart: re.Pattern[str] | None, texts: Sequence[tuple[str, Sequence[Span]]], cut: int
) -> list[Encoded] | None:
    """Texts encoded as their shared start and their own rests; None where that is not the same as encoding them whole.

    It differs for tokenizers that put a word mark before the very first text only, which shows on a rest that does not
    begin with a special token.
    """
    head, _ = _encode(tokenizer, [texts[0][0][:cut]])[0]
    rests = _marked(tokenizer, [(text[cut:], [(a - cut, b - cut) for a, b in spans]) for text, spans in texts])
    blank = np.zeros(len(head), dtype=bool)
    joined = [(np.concatenate([head, ids]), np.concatenate([blank, flags])) for ids, flags in rests]
    plain = (row for row, (text, _) in enumerate(texts) if not (apart and apart.match(text, cut)))
    tried = sorted({0, next(plain, 0)})
    for row, whole in zip(tried, _marked(tokenizer, [texts[row] for row in tried]), strict=True):
        if not all(np.array_equal(left, right) for left, right in zip(whole, joined[row], strict=True)):
            return None
    return joined


def _documents(tokenizer: Any, texts: Sequence[str]) -> list[Encoded]:
    rows = tokenizer(list(texts), add_special_tokens=True, verbose=False)["input_ids"]
    eos = tokenizer.eos_token_id
    encoded: list[Encoded] = []
    for row in rows:
        ids = np.asarray(row if eos is None or (row and row[-1] == eos) else [*row, eos], dtype=np.int64)
        flags = np.ones(len(ids), dtype=bool)
        flags[:1] = False
        encoded.append((ids, flags))
    return encoded


def _apart(tokenizer: Any) -> re.Pattern[str] | None:
    """The special tokens that are cut out of a text before anything else is done to it."""
    tokens = tokenizer.added_tokens_decoder.values()
    free = [token for token in tokens if not (token.normalized or token.single_word or token.lstrip or token.rstrip)]
    return any_of([token.content for token in free if token.special])


def _shared_length(apart: re.Pattern[str] | None, texts: Sequence[tuple[str, Sequence[Span]]]) -> int:
    """Characters that all texts begin with, up to the end of a special token and before anything that trains."""
    if apart is None or len(texts) < _LEAST_SHARED_ROWS:
        return 0
    shared = _common_start(min(text for text, _ in texts), max(text for text, _ in texts))
    limit = min([len(shared), *(start for _, spans in texts for start, _ in spans)])
    ends = (match.end() for match in apart.finditer(shared))
    return max((end for end in ends if _LEAST_SHARED_CHARACTERS <= end <= limit), default=0)


def _common_start(first: str, second: str) -> str:
    """What two texts begin with; of the least and the greatest of many texts it is what all begin with."""
    for number, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return first[:number]
    return min(first, second, key=len)


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[tuple[TokenIds, NDArray[np.int64]]]:
    """Ids of shape (T,) and character offsets of shape (T, 2) for each text."""
    batch = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        (np.asarray(ids, dtype=np.int64), np.asarray(offsets, dtype=np.int64).reshape(-1, 2))
        for ids, offsets in zip(batch["input_ids"], batch["offset_mapping"], strict=True)
    ]


def _marked(tokenizer: Any, texts: Sequence[tuple[str, Sequence[Span]]]) -> list[Encoded]:
    encoded: list[Encoded] = []
    for (ids, offsets), (_, spans) in zip(_encode(tokenizer, [text for text, _ in texts]), texts, strict=True):
        flags = tokens_in_spans(offsets, spans)
        flags[:1] = False
        encoded.append((ids, flags))
    return encoded


def tokens_in_spans(offsets: NDArray[np.int64], spans: Sequence[Span]) -> Flags:
    """Which tokens hold a character of a span.

    Byte-level tokenizers may leave white space out of a token's offsets, down to an empty stretch; it is given back to
    the token that follows the gap. A token that stands for no character (a word mark put before a text) belongs to the
    character behind it.
    """
    ends = np.maximum.accumulate(offsets[:, 1]) if len(offsets) else offsets[:, 1]
    before = np.concatenate([np.zeros(1, dtype=np.int64), ends])[: len(offsets)]
    starts = np.minimum(offsets[:, 0], before)
    flags = np.zeros(len(offsets), dtype=bool)
    for start, end in spans:
        holds = (starts < end) & (offsets[:, 1] > start)
        empty = (starts == offsets[:, 1]) & (start <= starts) & (starts < end)
        flags |= holds | empty
    return flags
