"""Words of a text and their tags (B begins an entity, I goes on with it, O is outside), and back to entities."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.errors import SupervisionError
from tunesmith.formats.examples import EntityText

OUTSIDE = "O"
_WORD = re.compile(r"\w+|[^\w\s]")
_HINT = "correct the row, or learn entities as JSON with objective=sft on a model that writes"


@dataclass(frozen=True)
class Word:
    """A word by its place in the text (characters, end excluded), with its tag."""

    start: int
    end: int
    tag: str


def tag_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """All tags of a label set, O first."""
    return (OUTSIDE, *(f"{mark}-{label}" for label in labels for mark in ("B", "I")))


def tagged_words(example: EntityText) -> tuple[Word, ...]:
    """The words of a text: its own tokens where the file has some, else stretches of letters and single marks.

    Raises:
        SupervisionError: ``supervision.entities_overlap``, ``supervision.entity_cuts_word``.
    """
    if example.tokens:
        words, start = [], 0
        for token, tag in zip(example.tokens, example.tags, strict=True):
            words.append(Word(start, start + len(token), tag))
            start += len(token) + 1
        return tuple(word for word in words if example.text[word.start : word.end].strip())
    places = [match.span() for match in _WORD.finditer(example.text)]
    tags = dict.fromkeys(places, OUTSIDE)
    for span in example.spans:
        covered = [place for place in places if place[0] < span.end and place[1] > span.start]
        shown = example.text[span.start : span.end]
        if not covered or covered[0][0] < span.start or covered[-1][1] > span.end:
            raise SupervisionError(
                "an entity begins or ends inside a word", code="supervision.entity_cuts_word", value=shown, hint=_HINT
            )
        if any(tags[place] != OUTSIDE for place in covered):
            raise SupervisionError(
                "an entity overlaps another one", code="supervision.entities_overlap", value=shown, hint=_HINT
            )
        for number, place in enumerate(covered):
            tags[place] = f"{'I' if number else 'B'}-{span.label}"
    return tuple(Word(start, end, tag) for (start, end), tag in tags.items())


def entities_of(text: str, places: Sequence[tuple[int, int]], tags: Sequence[str]) -> list[dict[str, str | int]]:
    """Entities that tags of words spell, in the order of the text, with their places (characters, end excluded)."""
    found: list[dict[str, str | int]] = []
    for first, last, label in entity_words(tags):
        start, end = places[first][0], places[last][1]
        found.append({"text": text[start:end], "label": label, "start": start, "end": end})
    return found


def entity_words(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """First word, last word and label of each entity; an I behind anything else begins one too."""
    found: list[tuple[int, int, str]] = []
    before = OUTSIDE
    for word, tag in enumerate(tags):
        if tag != OUTSIDE:
            label = tag[2:]
            if tag[0] == "I" and before[2:] == label:
                found[-1] = (found[-1][0], word, label)
            else:
                found.append((word, word, label))
        before = tag
    return found
