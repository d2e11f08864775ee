"""Calls of functions in what a model wrote, in OpenAI's form."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from tunesmith.tasks.found_calls import FoundCall, parse_calls
from tunesmith.wire.chat import CalledFunction, ToolCall

# With one of these a text begins that is a call, in the forms that templates write.
_OPENINGS = ("{", "[", "<", "```", "call:", "to=functions.", "commentary to=", "function<")


def calls_in(
    text: str, names: Collection[str], schemas: Mapping[str, Mapping[str, Any] | None] | None = None
) -> list[ToolCall]:
    """The calls of functions that were offered, in the order in which they were written.

    ``schemas`` are the parameters of functions. Where a form does not tell a text of digits from a number, they do.
    """
    return [
        ToolCall(
            id=f"call_{uuid.uuid4().hex[:24]}",
            function=CalledFunction(
                name=call.name,
                arguments=json.dumps(_typed(call, (schemas or {}).get(call.name)), ensure_ascii=False),
            ),
        )
        for call in parse_calls(text)
        if call.name in names
    ]


def _typed(call: FoundCall, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    properties = (schema or {}).get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    texts = {name for name, one in known.items() if isinstance(one, Mapping) and one.get("type") == "string"}
    return {
        name: call.texts[name] if name in texts and name in call.texts else value
        for name, value in call.arguments.items()
    }


def may_be_call(text: str, names: Collection[str] = ()) -> bool:
    """Whether a text that is still growing may turn out to be a call, so that it cannot be shown as words yet.

    ``names`` are the functions on offer: some templates write a name directly before the object with its arguments.
    """
    begun = text.lstrip()
    openings = (*_OPENINGS, *(f"{name}{{" for name in names))
    return begun.startswith(openings) or any(opening.startswith(begun) for opening in openings)
