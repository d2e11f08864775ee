"""What one row of a training file means, whatever its file looked like.

A reader turns a row into one of these values; a task turns the value into a conversation or a text to train on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where a row stands: the file's name and the line (JSONL, CSV) or row number (JSON, Parquet), from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Message:
    """One turn. ``trained`` is False where OpenAI's ``weight: 0`` asks not to learn this assistant turn."""

    role: str
    content: str
    trained: bool = True
    name: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True)
class Conversation:
    """Turns of a chat, and the tools (JSON schema, OpenAI form) that the assistant could call."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class PromptCompletion:
    """A prompt and the completion to learn; Alpaca's instruction and input are joined into the prompt."""

    prompt: str
    completion: str
    system: str | None = None


@dataclass(frozen=True)
class Document:
    """Plain text, all of it to be learned."""

    text: str


@dataclass(frozen=True)
class LabelledText:
    """A text and its one label."""

    text: str
    label: str


@dataclass(frozen=True)
class Span:
    """A labelled stretch of a text: characters ``start`` (included) to ``end`` (excluded)."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class EntityText:
    """A text with its entities. Tokens and tags of a token-tagged file are kept beside the joined text."""

    text: str
    spans: tuple[Span, ...]
    tokens: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Translation:
    """A sentence in two languages; the languages are None where the file does not name them."""

    source: str
    target: str
    source_language: str | None = None
    target_language: str | None = None


@dataclass(frozen=True)
class QuestionAnswer:
    """A question with all accepted answers (the first is the one to learn), and its context if it has one.

    ``answers`` is empty where the context does not answer the question. ``starts`` are the characters of the context at
    which the answers start, None for each that the file does not tell; it is empty where no start is told.
    """

    question: str
    answers: tuple[str, ...]
    context: str | None = None
    starts: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class PreferencePair:
    """A conversation with a chosen and a rejected last answer."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class RatedAnswer:
    """A conversation with one last answer, which people want or do not want."""

    messages: tuple[Message, ...]
    answer: str
    wanted: bool
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Call:
    """An expected call of a function: for each argument the values that are right.

    An accepted ``""`` says that the argument may be left out. Fields of an accepted object are lists of accepted
    values in turn.
    """

    name: str
    arguments: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class ToolRequest:
    """A request, the functions on offer (JSON schema, OpenAI form) and the calls that it asks for, in any order."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class SqlTable:
    """A table with as many of its rows as the file has; they may be none."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...] = ()


@dataclass(frozen=True)
class SqlQuestion:
    """A question and the SQL that answers it; the schema is a text, often statements that make the tables."""

    question: str
    sql: str
    schema: str | None = None
    tables: tuple[SqlTable, ...] = ()


Example = (
    Conversation
    | PromptCompletion
    | Document
    | LabelledText
    | EntityText
    | Translation
    | QuestionAnswer
    | PreferencePair
    | RatedAnswer
    | ToolRequest
    | SqlQuestion
)

SHAPES: Mapping[str, type[Example]] = {
    "chat": Conversation,
    "prompt_completion": PromptCompletion,
    "text": Document,
    "text_label": LabelledText,
    "entities": EntityText,
    "translation": Translation,
    "question_answer": QuestionAnswer,
    "preference": PreferencePair,
    "rated": RatedAnswer,
    "function_calls": ToolRequest,
    "text_to_sql": SqlQuestion,
}
