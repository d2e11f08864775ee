"""How much of what a model writes stands in its training data word for word.

The n-grams of the answers are hashed and kept; the training texts go by once and mark those they hold. So memory grows
with the answers alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunesmith.evaluation.metrics.text_quality import words

NGRAM_WORDS = 8


@dataclass(frozen=True)
class Copied:
    """Of one answer: n-grams that the training data holds, all n-grams, and the longest stretch of words copied."""

    found: int
    ngrams: int
    longest_words: int


def copied(answers: Sequence[str], training_texts: Iterable[str], ngram_words: int = NGRAM_WORDS) -> list[Copied]:
    """What each answer shares with the training texts.

    Args:
        answers: What a system wrote.
        training_texts: Each training text once; they are read one after another and not kept.
        ngram_words: How many words in a row count as copied; shorter answers have no n-gram.

    The longest stretch is a run of n-grams that each stand in the training data, so it may join several texts.
    """
    of_answers = [_hashes(answer, ngram_words) for answer in answers]
    wanted = {one for hashes in of_answers for one in hashes}
    met: set[int] = set()
    for text in training_texts:
        if len(met) == len(wanted):
            break
        met.update(wanted.intersection(_hashes(text, ngram_words)))
    return [_copied(hashes, met, ngram_words) for hashes in of_answers]


def _hashes(text: str, ngram_words: int) -> list[int]:
    found = words(text)
    return [_hash(found[at : at + ngram_words]) for at in range(len(found) - ngram_words + 1)]


def _hash(ngram: Sequence[str]) -> int:
    """The same number in every process, of 64 bits: two checksums of the text and of its mirror."""
    text = " ".join(ngram).encode("utf-8", "surrogatepass")
    return zlib.crc32(text) << 32 | zlib.crc32(text[::-1])


def _copied(hashes: Sequence[int], met: set[int], ngram_words: int) -> Copied:
    longest = run = found = 0
    for one in hashes:
        run = run + 1 if one in met else 0
        found += one in met
        longest = max(longest, run)
    return Copied(found, len(hashes), longest + ngram_words - 1 if longest else 0)
