"""Calls of functions in what a model wrote, in OpenAI's form."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection

from tunesmith.tasks.found_calls import parse_calls
from tunesmith.wire.chat import CalledFunction, ToolCall

# With one of these a text begins that is a call, in the forms that templates write.
_OPENINGS = ("{", "[", "<", "```", "call:", "to=functions.", "commentary to=", "function<")


def calls_in(text: str, names: Collection[str]) -> list[ToolCall]:
    """The calls of functions that were offered, in the order in which they were written."""
    return [
        ToolCall(
            id=f"call_{uuid.uuid4().hex[:24]}",
            function=CalledFunction(name=call.name, arguments=json.dumps(dict(call.arguments), ensure_ascii=False)),
        )
        for call in parse_calls(text)
        if call.name in names
    ]


def may_be_call(text: str, names: Collection[str] = ()) -> bool:
    """Whether a text that is still growing may turn out to be a call, so that it cannot be shown as words yet.

    ``names`` are the functions on offer: some templates write a name directly before the object with its arguments.
    """
    begun = text.lstrip()
    openings = (*_OPENINGS, *(f"{name}{{" for name in names))
    return begun.startswith(openings) or any(opening.startswith(begun) for opening in openings)
