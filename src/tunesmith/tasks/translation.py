"""A sentence from one language into another."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.formats.examples import Example, Translation
from tunesmith.formats.inspect import Inspection
from tunesmith.tasks.answers import longest
from tunesmith.tasks.languages import language_name
from tunesmith.tasks.types import PreparedTask, Question, question_task


def prepare(inspection: Inspection, sample: Sequence[Example]) -> PreparedTask:  # noqa: ARG001  (one form for all)
    """The task for sentence pairs; each row's instruction names its own languages, where the file names them."""
    found = sorted({_direction(example) for example in sample})
    named = "; ".join(direction.strip() for direction in found if direction) or "the languages are not named"
    return question_task(
        "translation",
        _ask,
        metrics=("bleu", "chrf"),
        longest_answer=longest([_ask(example).answer for example in sample]),
        wording={},
        description=f"Translation: {named}.",
    )


def _ask(example: Example) -> Question:
    assert isinstance(example, Translation)
    system = f"Translate the text{_direction(example)}. Answer with the translation and nothing else."
    return Question(system, example.source, example.target, example.target)


def _direction(example: Example) -> str:
    assert isinstance(example, Translation)
    parts = (("from", example.source_language), ("into", example.target_language))
    return "".join(f" {word} {language_name(code)}" for word, code in parts if code)
