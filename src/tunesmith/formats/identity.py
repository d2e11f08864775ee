"""When two examples are the same, and when they must stay on one side of a split."""

from __future__ import annotations

from hashlib import blake2b

from tunesmith.formats.examples import (
    Conversation,
    Document,
    EntityText,
    Example,
    LabelledText,
    Message,
    PreferencePair,
    PromptCompletion,
    QuestionAnswer,
    RatedAnswer,
    SqlQuestion,
    ToolRequest,
    Translation,
)

DIGEST_BYTES = 12


def example_digest(example: Example) -> bytes:
    """A short hash of everything in an example."""
    return _digest(repr(example))


def group_digest(example: Example) -> bytes:
    """A short hash of what the model is given, so that one prompt never stands on both sides of a split.

    Case and runs of blanks do not count. A question with a context is grouped by the context.
    """
    return _digest(f"{type(example).__name__} {' '.join(given(example).casefold().split())}")


def given(example: Example) -> str:
    """What the model sees of an example before it must answer."""
    match example:
        case Conversation(messages=messages):
            return _turns(_before_first_answer(messages))
        case PreferencePair(messages=messages) | RatedAnswer(messages=messages) | ToolRequest(messages=messages):
            return _turns(messages)
        case PromptCompletion(prompt=text) | Translation(source=text):
            return text
        case Document(text=text) | LabelledText(text=text) | EntityText(text=text):
            return text
        case QuestionAnswer(question=question, context=context):
            return question if context is None else context
        case SqlQuestion(question=question, schema=schema):
            return question if schema is None else f"{schema}\n{question}"


def _before_first_answer(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns before the first answer to a user; all turns where nothing answers a user."""
    asked = False
    for number, message in enumerate(messages):
        asked = asked or message.role == "user"
        if asked and message.role == "assistant":
            return messages[:number]
    return messages


def _turns(messages: tuple[Message, ...]) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in messages)


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
