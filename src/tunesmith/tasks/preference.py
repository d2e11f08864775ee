"""Answers that people preferred to others, or rated. Nothing is generated: what counts is how likely answers are.

Few-shot prompts and questions are not made of them; :func:`answers_of` says which rows an example becomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.formats.examples import Conversation, Example, Message, PreferencePair, RatedAnswer
from tunesmith.formats.inspect import Inspection
from tunesmith.tasks.types import PreparedTask

CHOSEN, REJECTED = 1, 0


@dataclass(frozen=True)
class Answer:
    """One answer in its conversation; ``kind`` is 1 where people want it, else 0."""

    conversation: Conversation
    kind: int


def prepare(inspection: Inspection, sample: Sequence[Example]) -> PreparedTask:  # noqa: ARG001  (one form for all)
    """The task for pairs of a chosen and a rejected answer, or for rated answers."""
    pairs = inspection.shape == "preference"
    return PreparedTask(
        "preference",
        labels=(),
        metrics=("pair_accuracy", "margin") if pairs else ("wanted_likelier", "wanted_margin"),
        longest_answer="",
        training=lambda example: answers_of(example)[0].conversation,
        evaluation=lambda example: None,  # noqa: ARG005
        wording={"shape": inspection.shape},
        description="Preference: chosen answers are learned against rejected ones, measured by how often and by how "
        "much the chosen one is the likelier."
        if pairs
        else "Preference: rated answers are learned, measured by how often and by how much wanted ones are likelier "
        "than unwanted ones.",
        is_asked=False,
    )


def answers_of(example: Example) -> list[Answer]:
    """The answers of a pair, the chosen one first, or the one rated answer; only they are learned."""
    if isinstance(example, PreferencePair):
        return [_answer(example, example.chosen, CHOSEN), _answer(example, example.rejected, REJECTED)]
    assert isinstance(example, RatedAnswer)
    return [_answer(example, example.answer, CHOSEN if example.wanted else REJECTED)]


def _answer(example: PreferencePair | RatedAnswer, answer: str, kind: int) -> Answer:
    before = (
        Message(one.role, one.content, False, one.name, one.tool_calls, one.tool_call_id) for one in example.messages
    )
    return Answer(Conversation((*before, Message("assistant", answer)), example.tools), kind)
