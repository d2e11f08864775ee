"""Preference: a prompt with a chosen and a rejected answer, or with one answer that is rated."""

from __future__ import annotations

from typing import Any

from tunesmith.formats.examples import Message, PreferencePair, RatedAnswer
from tunesmith.formats.rows import RowProblem, clip
from tunesmith.formats.shapes.chat import parse_messages, parse_tools
from tunesmith.formats.shapes.texts import joined_prompt
from tunesmith.formats.shapes.values import Fields


def parse_preference(fields: Fields) -> PreferencePair:
    """``chosen`` and ``rejected`` as texts or message lists, or OpenAI's ``preferred_output`` and its partner.

    The prompt is a text, a message list, OpenAI's ``input`` object, or the messages that both lists begin with.
    """
    prompt, tools = _prompt(fields)
    chosen_before, chosen = _answer(fields, "chosen")
    rejected_before, rejected = _answer(fields, "rejected")
    if chosen_before != rejected_before:
        raise RowProblem("different_prompts", "chosen and rejected do not answer the same messages")
    prompt = _joined(prompt, chosen_before)
    if not any(message.role == "user" for message in prompt):
        raise RowProblem("missing_prompt", "no prompt; name its column, for example {prompt: question}")
    return PreferencePair(prompt, chosen, rejected, tools)


def parse_rated(fields: Fields) -> RatedAnswer:
    """``prompt`` and ``completion`` as texts or message lists, and ``label``: whether the completion is wanted."""
    prompt, tools = _prompt(fields)
    before, answer = _answer(fields, "completion")
    prompt = _joined(prompt, before)
    if not any(message.role == "user" for message in prompt):
        raise RowProblem("missing_prompt", "no prompt; name its column, for example {prompt: question}")
    return RatedAnswer(prompt, answer, _wanted(fields), tools)


def _wanted(fields: Fields) -> bool:
    value = fields.get("label")
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise RowProblem("data_type", f"`{fields.columns['label']}` must be true or false, found {clip(value)}")
    return value


def _joined(prompt: tuple[Message, ...], before: tuple[Message, ...]) -> tuple[Message, ...]:
    """The prompt column and the messages that both lists begin with, which often repeat the prompt."""
    if not before or not prompt:
        return before or prompt
    asked = {message.content.strip() for message in before if message.role == "user"}
    if not asked:
        return (*before, *prompt)
    if prompt[-1].content.strip() in asked:
        return before
    raise RowProblem("different_prompts", "the prompt is not what chosen and rejected answer")


def _prompt(fields: Fields) -> tuple[tuple[Message, ...], tuple[Any, ...]]:
    tools = parse_tools(fields.get("tools"))
    value = fields.get("prompt")
    if isinstance(value, dict):
        return parse_messages(value.get("messages")), parse_tools(value.get("tools")) or tools
    if isinstance(value, list):
        return parse_messages(value), tools
    if value is None:
        return (), tools
    text = joined_prompt(fields.text("prompt"), fields.optional_text("input"))
    system = fields.optional_text("system")
    before = () if system is None else (Message("system", system),)
    return (*before, Message("user", text)), tools


def _answer(fields: Fields, field: str) -> tuple[tuple[Message, ...], str]:
    """The messages before an answer, where it is a message list, and the answer."""
    value = fields.get(field)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return (), fields.text(field)
    messages = parse_messages(value)
    if messages[-1].role != "assistant":
        raise RowProblem(
            "example_missing_assistant_message", f"`{fields.columns[field]}` must end with an assistant message"
        )
    return messages[:-1], messages[-1].content
