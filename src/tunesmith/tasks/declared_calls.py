"""The form in which functions are offered and called where a model's chat template knows no tools.

The functions stand in the system message, one JSON object a line; calls are one JSON list of objects with ``name``
and ``arguments``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.formats.examples import Conversation, Message
from tunesmith.formats.shapes.values import decoded

DECLARATION = (
    'You can call these functions. To call, answer only with a JSON list of objects with "name" and "arguments", one '
    "for each call. Where no function fits, answer in words."
)
_LEADING = ("system", "developer")


def declared(conversation: Conversation) -> Conversation:
    """The conversation with its tools and calls as text, so that every template shows them."""
    messages = tuple(_call_as_text(message) for message in conversation.messages)
    if not conversation.tools:
        return Conversation(messages)
    text = declare_tools(conversation.tools)
    if messages and messages[0].role in _LEADING:
        first = replace(messages[0], content=f"{messages[0].content}\n\n{text}")
        return Conversation((first, *messages[1:]))
    return Conversation((Message("system", text), *messages))


def declare_tools(tools: Sequence[Mapping[str, Any]]) -> str:
    """The functions as lines of a system message."""
    return "\n".join([DECLARATION, *(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)])


def write_calls(calls: Sequence[Mapping[str, Any]]) -> str:
    """Calls in OpenAI's form as the list that the declaration asks for."""
    functions = [call["function"] for call in calls]
    plain = [{"name": one["name"], "arguments": _arguments(one["arguments"])} for one in functions]
    return json.dumps(plain, ensure_ascii=False)


def call_id(number: int) -> str:
    """The id of a call by its number in a conversation: nine letters and digits, which every template takes."""
    return f"call{number:05d}"


def _arguments(value: Any) -> Any:
    return decoded(value or "{}") if isinstance(value, str) else value


def _call_as_text(message: Message) -> Message:
    if not message.tool_calls:
        return message
    parts = [message.content, write_calls(message.tool_calls)]
    return replace(message, content="\n".join(part for part in parts if part), tool_calls=())
