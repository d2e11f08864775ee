"""A request that is answered by calls of functions, or by words where no function fits.

Tools and calls go to the model in the form of its own chat template; where the template knows none, in the declared
form of :mod:`tunesmith.tasks.declared_calls`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.formats.examples import Call, Conversation, Example, Message, ToolRequest
from tunesmith.formats.inspect import Inspection
from tunesmith.formats.rows import RowProblem
from tunesmith.formats.shapes.calls import plain_call
from tunesmith.tasks.answers import longest
from tunesmith.tasks.declared_calls import call_id, write_calls
from tunesmith.tasks.types import EvaluationRow, PreparedTask, Reference

NO_CALL = "None of the functions fits this request."


def prepare(inspection: Inspection, sample: Sequence[Example]) -> PreparedTask:  # noqa: ARG001  (one form for all)
    """The task for requests with functions on offer, and for conversations that call tools."""
    rows = [row for example in sample if (row := _evaluation(example)) is not None]
    without = sum(not row.calls for row in rows)
    return PreparedTask(
        "function_calling",
        labels=(),
        metrics=("calls_match", "call_names"),
        longest_answer=longest([row.shown_reference for row in rows]),
        training=_conversation,
        evaluation=_evaluation,
        wording={"no_call": NO_CALL},
        description=f"Function calling; of {len(rows)} sampled requests {without} ask for no call.",
    )


def learned_value(accepted: Any) -> Any:
    """The value to learn of an accepted one, whose objects hold lists of accepted values."""
    if isinstance(accepted, Mapping):
        chosen = {
            key: _first(values if isinstance(values, list | tuple) else (values,)) for key, values in accepted.items()
        }
        return {key: value for key, value in chosen.items() if value != ""}
    return [learned_value(item) for item in accepted] if isinstance(accepted, list | tuple) else accepted


def _first(values: Sequence[Any]) -> Any:
    return learned_value(values[0]) if values else ""


def _learned_calls(calls: Sequence[Call]) -> tuple[Mapping[str, Any], ...]:
    """Calls in OpenAI's form with the first accepted values; what is best left out is left out."""
    found = []
    for number, call in enumerate(calls, start=1):
        arguments = {
            name: _first(values) for name, values in call.arguments.items() if values[0] != "" or len(values) == 1
        }
        function = {"name": call.name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        found.append({"id": call_id(number), "type": "function", "function": function})
    return tuple(found)


def _conversation(example: Example) -> Conversation:
    if isinstance(example, Conversation):
        return example
    assert isinstance(example, ToolRequest)
    calls = _learned_calls(example.calls)
    answer = Message("assistant", "" if calls else NO_CALL, tool_calls=calls)
    return Conversation((*example.messages, answer), example.tools)


def _evaluation(example: Example) -> EvaluationRow | None:
    if isinstance(example, ToolRequest):
        answer = _conversation(example).messages[-1]
        return _row(example.messages, example.tools, answer, example.calls)
    assert isinstance(example, Conversation)
    for number in reversed(range(1, len(example.messages))):
        answer, before = example.messages[number], example.messages[number - 1]
        if answer.role == "assistant" and answer.trained and before.role == "user" and example.tools:
            calls = _expected(answer.tool_calls)
            return None if calls is None else _row(example.messages[:number], example.tools, answer, calls)
    return None


def _expected(calls: Sequence[Mapping[str, Any]]) -> tuple[Call, ...] | None:
    """The calls of a turn as expectations; None where their arguments are no JSON object, which nothing can equal."""
    try:
        return tuple(plain_call(call["function"]) for call in calls)
    except RowProblem:
        return None


def _row(
    messages: tuple[Message, ...], tools: tuple[Mapping[str, Any], ...], answer: Message, calls: Sequence[Call]
) -> EvaluationRow:
    reference: Reference = tuple({"name": call.name, "arguments": dict(call.arguments)} for call in calls)
    shown = write_calls(answer.tool_calls) if answer.tool_calls else answer.content
    return EvaluationRow(messages, tools, reference, shown, answer.tool_calls)
