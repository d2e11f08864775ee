"""Pieces of writing or music.

A prompt with its piece stays as it is; a text is asked to be written on from its opening.

The opening of a tune in ABC notation is its header; that of any other text is its first lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.formats.examples import Document, Example, PromptCompletion
from tunesmith.formats.inspect import Inspection
from tunesmith.tasks.answers import longest
from tunesmith.tasks.types import PreparedTask, Question, question_task

_KEY_LINE = re.compile(r"^K:.*(?:\n|$)", re.MULTILINE)
_TUNE = re.compile(r"^X:\s*\d+.*^K:", re.MULTILINE | re.DOTALL)
# A quarter of a text without a header is enough to know its manner.
OPENING_SHARE = 0.25


def prepare(inspection: Inspection, sample: Sequence[Example]) -> PreparedTask:  # noqa: ARG001  (one form for all)
    """The task for pieces; tunes in ABC notation are measured by their parser."""
    pieces = [piece for example in sample for piece in [_piece(example)] if piece]
    tunes = bool(pieces) and all(_TUNE.search(piece) for piece in pieces)
    system = (
        "You write tunes in ABC notation. Answer with notation and nothing else."
        if tunes
        else "You write in the manner that is asked for. Answer with the piece and nothing else."
    )

    def ask(example: Example) -> Question:
        if isinstance(example, Document):
            opening, rest = split_opening(example.text)
            reference = {"opening": opening, "text": rest} if tunes else rest
            return Question(system, f"Write on:\n{opening}", rest, reference)
        prompt, completion, own_system = _asked(example)
        return Question(own_system or system, prompt, completion, completion)

    # A tune that copies one in the prompt is valid; its bars tell more, and those of a faulty tune count as wrong.
    metrics = (*(("abc_bars", "abc_valid") if tunes else ("chrf",)), "distinct_1", "distinct_2", "distinct_3")
    return question_task(
        "creative",
        ask,
        metrics=metrics,
        longest_answer=longest([ask(example).answer for example in sample]),
        wording={"system": system},
        description=f"Creative: {'tunes in ABC notation' if tunes else 'pieces of writing'}, written on or to order.",
    )


def split_opening(text: str) -> tuple[str, str]:
    """The part of a piece that is given, and the part to be written; the second is never blank unless all is."""
    header = _KEY_LINE.search(text) if _TUNE.search(text) else None
    if header and text[header.end() :].strip():
        return text[: header.end()].rstrip("\n"), text[header.end() :]
    lines = text.splitlines(keepends=True)
    goal, length = OPENING_SHARE * len(text), 0
    for number, line in enumerate(lines[:-1], start=1):
        length += len(line)
        if length >= goal and "".join(lines[number:]).strip() and text[:length].strip():
            return text[:length].rstrip("\n"), text[length:]
    words = re.split(r"(?<=\S)(?=\s)", text)
    at = max(1, round(OPENING_SHARE * len(words)))
    return ("".join(words[:at]), "".join(words[at:]).lstrip()) if len(words) > at else ("", text)


def _piece(example: Example) -> str:
    return example.text if isinstance(example, Document) else _asked(example)[1]


def _asked(example: Example) -> tuple[str, str, str | None]:
    """Prompt, piece and system message."""
    assert isinstance(example, PromptCompletion)
    return example.prompt, example.completion, example.system
