"""Plain text, all of it learned: domain adaptation. Nothing is generated; held-out loss and perplexity measure it."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.formats.examples import Document, Example
from tunesmith.formats.inspect import Inspection
from tunesmith.tasks.types import PreparedTask


def prepare(inspection: Inspection, sample: Sequence[Example]) -> PreparedTask:  # noqa: ARG001  (one form for all)
    """The task for documents."""
    return PreparedTask(
        "text",
        labels=(),
        metrics=(),
        longest_answer="",
        training=_document,
        evaluation=lambda example: None,  # noqa: ARG005
        wording={},
        description="Plain text: every token is learned, measured by held-out loss and perplexity.",
    )


def _document(example: Example) -> Document:
    assert isinstance(example, Document)
    return example
