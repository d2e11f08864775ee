"""Questions as people type them: small seeded changes that leave what is asked as it was.

Each kind of change is a function of text and seed alone. Numbers are never touched, and what had words has words
afterwards. A text that a kind has nothing to change in comes back as it is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import Literal

Perturbation = Literal["typos", "lower_case", "spacing", "contractions", "synonyms"]

# One word in so many gets a slip, and one gap in so many a wrong width.
_WORDS_A_TYPO = 8
_GAPS_A_SLIP = 4
_SHORTEST_TYPO_WORD = 4

# Capital letters of the text carry over to what replaces them.
_CONTRACTIONS = {
    "do not": "don't",
    "does not": "doesn't",
    "did not": "didn't",
    "is not": "isn't",
    "are not": "aren't",
    "was not": "wasn't",
    "were not": "weren't",
    "cannot": "can't",
    "could not": "couldn't",
    "should not": "shouldn't",
    "would not": "wouldn't",
    "have not": "haven't",
    "has not": "hasn't",
    "will not": "won't",
    "it is": "it's",
    "that is": "that's",
    "what is": "what's",
    "who is": "who's",
    "where is": "where's",
    "how is": "how's",
    "you are": "you're",
    "they are": "they're",
    "we are": "we're",
    "i am": "I'm",
}
# Pairs that mean the same in questions, whichever way around, without another word of the sentence changing but the
# article before them: both are of one part of speech only, and take what stands behind the other.
_BOTH_WAYS = {
    "happens": "occurs",
    "doctor": "physician",
    "car": "automobile",
    "kids": "children",
    "often": "frequently",
    "nearly": "almost",
    "maybe": "perhaps",
    "famous": "well-known",
    "biggest": "largest",
    "smallest": "tiniest",
    "people": "persons",
    "country": "nation",
    "countries": "nations",
    "smart": "clever",
    "rich": "wealthy",
}
# What the second word also is would not be what the first is: "fast" is said of how something runs, too.
_ONE_WAY = {
    "big": "large",
    "small": "little",
    "begin": "start",
    "begins": "starts",
    "buy": "purchase",
    "quick": "fast",
    "quickly": "fast",
    "incorrect": "wrong",
    "movie": "film",
    "sick": "ill",
    "assist": "help",
    "assists": "helps",
    "construct": "build",
    "main": "principal",
    "widespread": "common",
    "job": "occupation",
    "entire": "whole",
}
_SYNONYMS = {**_BOTH_WAYS, **{second: first for first, second in _BOTH_WAYS.items()}, **_ONE_WAY}
_VOWELS = "aeiou"
_WORD = re.compile(r"[^\W\d_]+")


def perturb(text: str, kind: Perturbation, seed: int) -> str:
    """The text with one kind of change; equal arguments give equal texts.

    Args:
        text: A question, or whatever a user wrote.
        kind: One of :data:`PERTURBATIONS`.
        seed: Chooses where; a part of the text itself, so that equal words in different questions slip differently.
    """
    return PERTURBATIONS[kind](text, random.Random(f"{seed} {kind} {text}"))  # noqa: S311  (repeatable, no secret)


def _typos(text: str, chance: random.Random) -> str:
    """Neighbouring letters swapped, a letter left out or doubled, within words that stand apart from digits."""
    words = [
        match.span()
        for match in _WORD.finditer(text)
        if match.end() - match.start() >= _SHORTEST_TYPO_WORD
        and not text[max(0, match.start() - 1) : match.start()].isdigit()
        and not text[match.end() : match.end() + 1].isdigit()
    ]
    if not words:
        return text
    slips = max(1, round(len(_WORD.findall(text)) / _WORDS_A_TYPO))
    changed = text
    # From the end, so that earlier places stay where they are.
    for start, end in sorted(chance.sample(words, min(slips, len(words))), reverse=True):
        changed = changed[:start] + _slip(changed[start:end], chance) + changed[end:]
    return changed


def _slip(word: str, chance: random.Random) -> str:
    """A word with one slip behind its first letter."""
    at = chance.randrange(1, len(word) - 1)
    way = chance.choice(("swap", "leave out", "double"))
    if way == "swap" and word[at] != word[at + 1]:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if way == "leave out":
        return word[:at] + word[at + 1 :]
    return word[: at + 1] + word[at:]


def _lower_case(text: str, chance: random.Random) -> str:  # noqa: ARG001 - nothing to choose
    return text.lower()


def _spacing(text: str, chance: random.Random) -> str:
    """Some gaps are doubled, and a space comes before the last mark."""
    gaps = [match.start() for match in re.finditer(r"(?<=\S) (?=\S)", text)]
    for at in sorted(chance.sample(gaps, -(-len(gaps) // _GAPS_A_SLIP)), reverse=True):
        text = f"{text[:at]}  {text[at + 1 :]}"
    return re.sub(r"(?<=[^\s\d])([?!.])$", r" \1", text)


def _contractions(text: str, chance: random.Random) -> str:  # noqa: ARG001 - all of them
    """Contracted where it was not; written out where it was."""
    pairs = {**_CONTRACTIONS, **{short.lower(): long for long, short in _CONTRACTIONS.items()}}
    return _replace(text, pairs)


def _synonyms(text: str, chance: random.Random) -> str:  # noqa: ARG001 - all of them
    # Before "to" words go with it: what happens to be so does not occur to be so.
    return _replace(text, _SYNONYMS, unless=r"\s+to\b")


def _replace(text: str, pairs: Mapping[str, str], unless: str | None = None) -> str:
    """Whole words replaced, the longest first, with the capital letter of what stood there and the fitting article.

    Words that the pattern ``unless`` follows stay.
    """
    found = "|".join(re.escape(key) for key in sorted(pairs, key=len, reverse=True))
    after = rf"(?![\w'])(?!{unless})" if unless else r"(?![\w'])"
    pattern = re.compile(rf"(?<![\w'])(?:(?P<article>an?)(?P<gap>\s+))?(?P<word>{found}){after}", re.IGNORECASE)

    def put(match: re.Match[str]) -> str:
        # A letter that is the same without regard to case may still be another one, such as a long s.
        old = match["word"]
        new = pairs.get(old.lower(), old)
        article = match["article"] or ""
        if article and (old[0].lower() in _VOWELS) != (new[0].lower() in _VOWELS):
            article = article[0] + ("n" if new[0].lower() in _VOWELS else "")
        return article + (match["gap"] or "") + (new[:1].upper() + new[1:] if old[:1].isupper() else new)

    return pattern.sub(put, text)


PERTURBATIONS: Mapping[Perturbation, Callable[[str, random.Random], str]] = {
    "typos": _typos,
    "lower_case": _lower_case,
    "spacing": _spacing,
    "contractions": _contractions,
    "synonyms": _synonyms,
}
