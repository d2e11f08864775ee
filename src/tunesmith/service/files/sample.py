"""The first rows of a training file as a job would learn them: what each part is, and which of them are learned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal

from tunesmith.formats.examples import Conversation, Document, Example, Message
from tunesmith.formats.inspect import Inspection, parsed_rows
from tunesmith.formats.kinds import SourceFile
from tunesmith.formats.rows import BadRow
from tunesmith.tasks.preference import CHOSEN, answers_of
from tunesmith.tasks.prepare import prepare_task
from tunesmith.tasks.types import PreparedTask

Kind = Literal["read", "learned", "avoided"]
_SHOWN_ROWS = 5
# What a task asks depends on the form of the answers, which so many rows tell.
_SAMPLE_ROWS = 256
_MOST_CHARACTERS = 2000


def first_rows(inspection: Inspection) -> list[dict[str, Any]]:
    """The first rows in the words of the task that the file's shape means.

    Args:
        inspection: Of the file, which lies where it lay then.

    Returns:
        A row each: ``line``; ``parts`` with ``role``, ``text``, ``kind`` (read, learned, avoided) and ``left_out``, the
        characters of a long text that are not shown; ``problem`` in place of parts where the row is none.
    """
    files = tuple(SourceFile(file.name, file.path, file.format, file.compressed) for file in inspection.files)
    found = list(islice(parsed_rows(files, inspection.shape, inspection.columns), _SAMPLE_ROWS))
    examples = [one[1] for one in found if not isinstance(one, BadRow)]
    task = prepare_task("auto", inspection, examples)
    return [_row(one, task) for one in found[:_SHOWN_ROWS]]


def _row(found: tuple[Any, Example] | BadRow, task: PreparedTask) -> dict[str, Any]:
    if isinstance(found, BadRow):
        return {"line": found.place.line, "parts": [], "problem": found.message}
    place, example = found
    return {"line": place.line, "parts": list(_parts(example, task)), "problem": None}


def _parts(example: Example, task: PreparedTask) -> Iterator[dict[str, Any]]:
    if task.name == "preference":
        first, *others = answers_of(example)
        yield from _turns(first.conversation, "learned" if first.kind == CHOSEN else "avoided")
        for other in others:
            yield _turn(other.conversation.messages[-1], "avoided")
        return
    trained = task.training(example)
    if isinstance(trained, Document):
        yield _part("text", trained.text, "learned")
    else:
        yield from _turns(trained, "learned")


def _turns(conversation: Conversation, answer: Kind) -> Iterator[dict[str, Any]]:
    """Only what the assistant says is learned, and of that nothing which has the weight 0."""
    if conversation.tools:
        yield _part("tools", _as_json(conversation.tools), "read")
    for message in conversation.messages:
        yield _turn(message, answer if message.role == "assistant" and message.trained else "read")


def _turn(message: Message, kind: Kind) -> dict[str, Any]:
    calls = [_as_json(message.tool_calls)] if message.tool_calls else []
    return _part(message.role, "\n".join([*([message.content] if message.content else []), *calls]), kind)


def _part(role: str, text: str, kind: Kind) -> dict[str, Any]:
    left_out = max(0, len(text) - _MOST_CHARACTERS)
    return {"role": role, "text": text[:_MOST_CHARACTERS], "kind": kind, "left_out": left_out}


def _as_json(value: tuple[Mapping[str, Any], ...]) -> str:
    return json.dumps(value, ensure_ascii=False)
