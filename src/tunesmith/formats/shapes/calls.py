"""Requests with the calls of functions that they ask for, and which values of each argument are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.formats.examples import Call, Message, ToolRequest
from tunesmith.formats.rows import RowProblem, clip
from tunesmith.formats.shapes.chat import parse_messages, parse_tools
from tunesmith.formats.shapes.values import Fields, decoded

# Names of types as the function calling leaderboard writes them, in JSON Schema's own words.
_TYPES = {"dict": "object", "float": "number", "double": "number", "tuple": "array", "list": "array", "int": "integer"}
_TYPES |= {"str": "string", "bool": "boolean"}


def parse_function_calls(fields: Fields) -> ToolRequest:
    """A question or messages, the functions on offer, and the expected calls.

    Calls are ``{function: {argument: [accepted values]}}``, where an accepted ``""`` says that the argument may be
    left out, or plain ``{"name": ..., "arguments": {...}}``; no call at all is an empty list.
    """
    messages = _messages(fields)
    functions = fields.get("functions")
    listed = [functions] if isinstance(functions, dict) else functions
    tools = tuple(_with_json_types(tool) for tool in parse_tools(listed))
    if not tools:
        raise RowProblem("missing_functions", f"no functions in column `{fields.columns['functions']}`")
    return ToolRequest(messages, tools, _calls(fields))


def accepted(value: Any) -> Any:
    """A plain value as the only one that is right: in objects every field holds the list of its accepted values."""
    if isinstance(value, Mapping):
        return {key: [accepted(item)] for key, item in value.items()}
    return [accepted(item) for item in value] if isinstance(value, list) else value


def plain_call(call: Mapping[str, Any]) -> Call:
    """One call with given values as an expectation.

    Raises:
        RowProblem: ``invalid_calls``.
    """
    arguments = call.get("arguments")
    arguments = decoded(arguments) if isinstance(arguments, str) else arguments
    arguments = {} if arguments in (None, "") else arguments
    if not isinstance(call.get("name"), str) or not isinstance(arguments, Mapping):
        raise RowProblem("invalid_calls", f"a call needs a name and an object of arguments, found {clip(call)}")
    return Call(call["name"], {name: (accepted(value),) for name, value in arguments.items()})


def _messages(fields: Fields) -> tuple[Message, ...]:
    value = fields.get("question")
    if isinstance(value, str) and value.strip():
        found = decoded(value)
        value = found if isinstance(found, list) else [{"role": "user", "content": value}]
    # The leaderboard keeps a list of turns, each a list of messages.
    if isinstance(value, list) and value and all(isinstance(turn, list) for turn in value):
        value = [message for turn in value for message in turn]
    messages = parse_messages(value)
    if messages[-1].role not in ("user", "tool"):
        raise RowProblem("missing_question", f"the last message is of role {messages[-1].role}, so nothing is asked")
    return messages


def _calls(fields: Fields) -> tuple[Call, ...]:
    value = fields.get("calls")
    value = decoded(value) if isinstance(value, str) else value
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise RowProblem("missing_calls", f"the calls must be a list, which may be empty, found {clip(value)}")
    return tuple(_call(item) for item in value)


def _call(item: Any) -> Call:
    if not isinstance(item, dict):
        raise RowProblem("invalid_calls", f"a call must be an object, found {clip(item)}")
    if isinstance(item.get("function"), dict):
        item = item["function"]
    if "name" in item and set(item) <= {"name", "arguments", "id", "type"}:
        return plain_call(item)
    if len(item) != 1:
        raise RowProblem("invalid_calls", f"a call must name one function, found {clip(item)}")
    ((name, arguments),) = item.items()
    if not isinstance(arguments, dict) or not all(isinstance(values, list) and values for values in arguments.values()):
        raise RowProblem("invalid_calls", f"each argument of a call needs a list of accepted values: {clip(item)}")
    return Call(name, {argument: tuple(values) for argument, values in arguments.items()})


def _with_json_types(value: Any) -> Any:
    if isinstance(value, dict):
        changed = {key: _with_json_types(item) for key, item in value.items()}
        kind = changed.get("type")
        if kind == "any":
            del changed["type"]
        elif isinstance(kind, str):
            changed["type"] = _TYPES.get(kind.lower(), kind)
        return changed
    return [_with_json_types(item) for item in value] if isinstance(value, list) else value
