"""Conversations as they are, and prompts with completions. Asked at evaluation: the last trained assistant turn."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.formats.examples import Conversation, Example, Message, PromptCompletion
from tunesmith.formats.inspect import Inspection
from tunesmith.tasks.answers import METRICS_OF_FORM, WORDS_OF_FORM, answer_form, longest
from tunesmith.tasks.types import EvaluationRow, PreparedTask


def prepare(inspection: Inspection, sample: Sequence[Example]) -> PreparedTask:  # noqa: ARG001  (one form for all)
    """The task for conversations, with metrics by the form of the sampled answers."""
    answers = [row.shown_reference for example in sample if (row := _evaluation(example)) is not None]
    form = answer_form(answers)
    if form == "short" and any(_turns(example) > 1 for example in sample):
        # Dialogues end in a few words of farewell, which say little of what comes before them.
        form = "long"
    # Short answers are compared as they are, which says nothing of near misses, lengths and form; texts' metrics do.
    metrics = METRICS_OF_FORM[form] + (METRICS_OF_FORM["long"] if form == "short" else ())
    return PreparedTask(
        "chat",
        labels=(),
        metrics=metrics,
        longest_answer=longest(answers),
        training=_conversation,
        evaluation=_evaluation,
        wording={},
        description=f"Chat: the assistant's turns are learned; {WORDS_OF_FORM[form]}.",
    )


def _turns(example: Example) -> int:
    return sum(message.role == "assistant" for message in _conversation(example).messages)


def _conversation(example: Example) -> Conversation:
    if isinstance(example, Conversation):
        return example
    assert isinstance(example, PromptCompletion)
    system = () if example.system is None else (Message("system", example.system),)
    return Conversation((*system, Message("user", example.prompt), Message("assistant", example.completion)))


def _evaluation(example: Example) -> EvaluationRow | None:
    """The last trained assistant turn that answers in words; calls of tools are no text to compare."""
    conversation = _conversation(example)
    for number in reversed(range(1, len(conversation.messages))):
        answer, before = conversation.messages[number], conversation.messages[number - 1]
        in_words = answer.role == "assistant" and answer.content.strip() and not answer.tool_calls
        if in_words and answer.trained and before.role in ("user", "tool"):
            return EvaluationRow(conversation.messages[:number], conversation.tools, answer.content, answer.content)
    return None
