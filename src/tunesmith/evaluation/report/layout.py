"""The shapes of a page: what both renderings show, before it is Markdown or HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["", "good", "bad", "quiet"]


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a smaller note below it, and how it should feel."""

    text: str
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """Rows under headings. ``numeric`` names the columns that line up on the right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Section:
    """A titled table with a sentence before it. ``folded`` sections open on demand in HTML."""

    name: str
    title: str
    table: Table
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Answer:
    """One system's answer to a sample; ``mark`` is right, wrong, a share, or empty."""

    system: str
    text: str
    mark: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class ShownSample:
    """A sample as shown."""

    place: str
    prompt: str
    reference: str | None
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Page:
    """The whole report in reading order."""

    title: str
    facts: Sequence[tuple[str, str]]
    verdict: str
    verdict_detail: str
    tone: Literal["better", "worse", "undecided"]
    alerts: Sequence[str]
    results: Table
    samples: Sequence[ShownSample]
    sections: Sequence[Section] = field(default_factory=tuple)
