"""Conversations: OpenAI's ``messages`` and ShareGPT's ``conversations``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.formats.examples import Conversation, Message
from tunesmith.formats.rows import RowProblem, clip
from tunesmith.formats.shapes.values import Fields, decoded

_ROLES = ("system", "developer", "user", "assistant", "tool")
_OTHER_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
_KEYS = frozenset(("role", "content", "name", "weight", "tool_calls", "tool_call_id", "function_call", "refusal"))
_SHAREGPT_KEYS = frozenset(("from", "value", "weight", "name"))


def parse_chat(fields: Fields) -> Conversation:
    """Messages with at least one assistant turn, and the tools that could be called."""
    messages = parse_messages(fields.get("messages"))
    system = fields.optional_text("system")
    if system is not None and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    if not any(message.role == "assistant" for message in messages):
        raise RowProblem("example_missing_assistant_message", "no assistant message, so there is nothing to learn")
    return Conversation(messages, parse_tools(fields.get("tools"), fields.get("functions")))


def parse_messages(value: Any) -> tuple[Message, ...]:
    """Messages of a row.

    Raises:
        RowProblem: Named as OpenAI's own checker names it, where it knows the problem.
    """
    if isinstance(value, str):
        value = decoded(value)
    if not isinstance(value, list) or not value:
        raise RowProblem(
            "missing_messages_list", f"the messages must be a list with something in it, found {clip(value)}"
        )
    return tuple(_message(item, number) for number, item in enumerate(value, start=1))


def _message(value: Any, number: int) -> Message:
    if not isinstance(value, dict):
        raise RowProblem("data_type", f"message {number} must be an object, found {clip(value)}")
    sharegpt = "from" in value and "role" not in value
    role_key, content_key = ("from", "value") if sharegpt else ("role", "content")
    calls = value.get("tool_calls") or value.get("function_call")
    if role_key not in value or (content_key not in value and not calls):
        missing = role_key if role_key not in value else content_key
        raise RowProblem("message_missing_key", f"message {number} has no `{missing}`")
    # Parquet gives every message the keys of all messages, so a key without a value counts as absent.
    unknown = sorted(key for key in set(value) - (_SHAREGPT_KEYS if sharegpt else _KEYS) if value[key] is not None)
    if unknown:
        raise RowProblem("message_unrecognized_key", f"message {number} has the unknown key `{clip(unknown[0])}`")
    given = value[role_key]
    role = given if given in _ROLES else _OTHER_ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise RowProblem(
            "unrecognized_role", f"message {number} has the role {clip(given)}; known are {', '.join(_ROLES)}"
        )
    if given == "function_call":
        return Message(role, "", tool_calls=(_old_call(decoded(str(value["value"])), number),))
    tool_calls = _tool_calls(value, number)
    return Message(
        role=role,
        content=_content(value.get(content_key), role, bool(tool_calls), number),
        trained=_trained(value.get("weight"), role, number),
        name=_optional(value, "name", number),
        tool_calls=tool_calls,
        tool_call_id=_optional(value, "tool_call_id", number),
    )


def _content(value: Any, role: str, has_calls: bool, number: int) -> str:
    if isinstance(value, list):
        value = "".join(_part(part, number) for part in value)
    if value is None and has_calls:
        return ""
    if not isinstance(value, str) or (not value and not has_calls and role != "tool"):
        raise RowProblem("missing_content", f"message {number} ({role}) has no text: {clip(value)}")
    return value


def _part(part: Any, number: int) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise RowProblem("unsupported_content", f"message {number} holds a part that is no text: {clip(part)}")


def _trained(weight: Any, role: str, number: int) -> bool:
    if weight is None:
        return True
    if role != "assistant" or weight not in (0, 1):
        raise RowProblem(
            "invalid_weight", f"message {number} ({role}): weight is 0 or 1 on assistant messages, found {clip(weight)}"
        )
    return bool(weight)


def _optional(value: Mapping[str, Any], key: str, number: int) -> str | None:
    text = value.get(key)
    if text is not None and not isinstance(text, str):
        raise RowProblem("data_type", f"message {number}: `{key}` must be a text, found {clip(text)}")
    return text


def _tool_calls(value: Mapping[str, Any], number: int) -> tuple[Mapping[str, Any], ...]:
    if value.get("function_call"):
        return (_old_call(value["function_call"], number),)
    calls = value.get("tool_calls")
    if calls is None or calls == []:
        return ()
    if not isinstance(calls, list) or not all(_is_call(call) for call in calls):
        raise RowProblem(
            "invalid_tool_calls", f"message {number}: a tool call needs function.name and function.arguments"
        )
    return tuple(calls)


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str) and "arguments" in function


def _old_call(call: Any, number: int) -> Mapping[str, Any]:
    wrapped = {"type": "function", "function": call}
    if not _is_call(wrapped):
        raise RowProblem(
            "invalid_tool_calls", f"message {number}: a function call needs name and arguments: {clip(call)}"
        )
    return wrapped


def parse_tools(tools: Any, functions: Any = None) -> tuple[Mapping[str, Any], ...]:
    """Tools in OpenAI's form; the old ``functions`` are wrapped, a text with JSON is decoded.

    Raises:
        RowProblem: ``invalid_tools``.
    """
    tools = decoded(tools) if isinstance(tools, str) and tools.strip() else tools
    functions = decoded(functions) if isinstance(functions, str) and functions.strip() else functions
    found: list[Mapping[str, Any]] = []
    for values, wrap in ((tools, False), (functions, True)):
        if values is None or values == "":
            continue
        if not isinstance(values, list):
            raise RowProblem("invalid_tools", f"tools must be a list, found {clip(values)}")
        for value in values:
            tool = {"type": "function", "function": value} if wrap or _is_bare_function(value) else value
            if not _is_tool(tool):
                raise RowProblem("invalid_tools", f"a tool needs a function with a name, found {clip(value)}")
            found.append(tool)
    return tuple(found)


def _is_bare_function(value: Any) -> bool:
    return isinstance(value, dict) and "function" not in value and isinstance(value.get("name"), str)


def _is_tool(value: Any) -> bool:
    function = value.get("function") if isinstance(value, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)
