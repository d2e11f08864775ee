"""Calls of functions read out of what a model wrote, in whatever form its template writes them."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.tasks.call_forms import marked_calls, name_before, tagged_calls

# An answer that never ends must not hold anything up: so many characters are read in vain, and of Python as many.
_MOST_IN_VAIN = 10**8
_MOST_OF_PYTHON = 20_000
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class FoundCall:
    """A call read out of an answer.

    Attributes:
        name: The function.
        arguments: Their values.
        texts: Arguments as they were written, in forms that do not tell a text of digits from a number.
    """

    name: str
    arguments: Mapping[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict)


def parse_calls(text: str) -> tuple[FoundCall, ...]:
    """The calls of an answer, in whatever form templates write them.

    Read are JSON objects with ``name`` and ``arguments`` (or ``parameters``), alone, in a list, in fences or between
    markers of a template, OpenAI's ``function`` objects, Python calls in a list (``[f(a=1), g(b=2)]``), and what
    :mod:`tunesmith.tasks.call_forms` reads: objects of arguments behind a name, tags, and ``call:f{a:1}``.
    """
    opened = text.find("{")
    tagged_first = 0 <= text.find("<function=") < (len(text) if opened < 0 else opened)
    return (
        (_tagged(text) if tagged_first else ())
        or _json_calls(text)
        or _tagged(text)
        or tuple(FoundCall(name, arguments) for name, arguments in marked_calls(text))
        or _python_calls(text[:_MOST_OF_PYTHON])
    )


def _tagged(text: str) -> tuple[FoundCall, ...]:
    return tuple(FoundCall(*call) for call in tagged_calls(text))


def _json_calls(text: str) -> tuple[FoundCall, ...]:
    """Calls whose arguments are JSON."""
    found: list[FoundCall] = []
    at = in_vain = behind = 0
    while in_vain < _MOST_IN_VAIN and (start := _next_json(text, at)) is not None:
        try:
            value, at = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            at = start + 1
            in_vain += len(text) - start
            continue
        calls = _calls_in(value)
        name = name_before(text, behind, start, marked=bool(calls)) if isinstance(value, dict) else None
        found.extend(calls if name is None else [FoundCall(name, value)])
        behind = at
    return tuple(found)


def _next_json(text: str, at: int) -> int | None:
    places = [place for place in (text.find("{", at), text.find("[", at)) if place >= 0]
    return min(places, default=None)


def _calls_in(value: Any) -> list[FoundCall]:
    if isinstance(value, list):
        return [call for item in value if isinstance(item, dict) for call in _calls_in(item)]
    if not isinstance(value, dict):
        return []
    if isinstance(value.get("function"), dict):
        return _calls_in(value["function"])
    if isinstance(value.get("tool_calls"), list):
        return _calls_in(value["tool_calls"])
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return []
    if not isinstance(value.get("name"), str) or not isinstance(arguments, dict):
        return []
    return [FoundCall(value["name"], arguments)]


def _python_calls(text: str) -> tuple[FoundCall, ...]:
    stripped = text.strip()
    if not stripped.endswith((")", ")]")):
        return ()
    try:
        tree = ast.parse(stripped, mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List) else [tree]
        return tuple(_python_call(call) for call in calls)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return ()


def _python_call(call: ast.expr) -> FoundCall:
    if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError("no call with named arguments")
    name = ast.unparse(call.func)
    return FoundCall(name, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords})
