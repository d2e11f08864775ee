"""Which tokens of a conversation train.

The whole conversation is rendered by the tokenizer's own chat template. The turn of an assistant starts where the
rendering of everything before it, opened for the assistant, ends; so what trains is what the model will have to write
after the same prompt. It ends with the end-of-turn token; the white space behind it is the template's and not trained.

Where such a prefix is not a prefix (templates that rewrite earlier turns, or open a turn differently than they keep
it), the turn is found by rendering the conversation once more with a placeholder as its content. Where that does not
fit either, the row is refused. Nothing is guessed.

Text in a message that looks like a special token (``<|im_start|>``) is encoded as the tokenizer encodes it in its own
template, which is as that special token. It cannot move what trains, since turns are found by their place in the text
and never by searching for markers; the audit names such rows.

Shape suffixes: T tokens of a row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from tunesmith.data.encode import encode_texts
from tunesmith.data.template import SENTINEL, ChatTemplate, chat_template, require_fast
from tunesmith.data.types import Flags, TokenIds
from tunesmith.errors import SupervisionError
from tunesmith.formats.examples import Conversation, Document, Message
from tunesmith.tasks.declared_calls import declared


class Note(IntFlag):
    """What an audit must know of a row, seen while it was rendered or cut."""

    DOCUMENT = 1
    TOOLS_LEFT_OUT = 2
    MESSAGE_LEFT_OUT = 4
    ANSWER_LEFT_OUT = 8
    SPECIAL_TEXT = 16
    PROMPT_DIFFERS = 32
    SYSTEM_MOVED = 64
    THINKING_DROPPED = 128
    TOO_LONG = 256
    CUT = 512
    GOES_ON = 1024
    TRAINED_LOST = 2048
    TOOLS_AS_TEXT = 4096


@dataclass(frozen=True)
class RenderedText:
    """A row as text, with the stretches (characters, end excluded) that train."""

    text: str
    spans: tuple[tuple[int, int], ...]
    notes: Note


@dataclass(frozen=True)
class Rendered:
    """A row as tokens. ``trained_T`` marks the tokens that train; never the first, as nothing comes before it."""

    token_ids_T: TokenIds
    trained_T: Flags
    text: str
    notes: Note


def render(tokenizer: Any, item: Conversation | Document) -> Rendered:
    """Render one conversation or document as tokens.

    Tokens of a conversation are exactly ``tokenizer.apply_chat_template(..., tokenize=True)``; those of a document are
    the tokenizer's own with the end-of-text token behind them.

    Raises:
        ModelError: As :func:`tunesmith.data.template.chat_template`.
        SupervisionError: As :func:`render_conversation`.
    """
    if isinstance(item, Document):
        require_fast(tokenizer)
        text = RenderedText(item.text, (), Note.DOCUMENT)
    else:
        text = render_conversation(chat_template(tokenizer), item)
    return render_texts(tokenizer, [text])[0]


def render_texts(tokenizer: Any, texts: Sequence[RenderedText]) -> list[Rendered]:
    """Encode rendered rows, many at once; the same tokens as one by one."""
    encoded: dict[int, tuple[TokenIds, Flags]] = {}
    for documents in (True, False):
        rows = [number for number, text in enumerate(texts) if bool(text.notes & Note.DOCUMENT) == documents]
        found = encode_texts(
            tokenizer, [(texts[number].text, texts[number].spans) for number in rows], documents=documents
        )
        encoded.update(zip(rows, found, strict=True))
    return [Rendered(*encoded[number], text.text, text.notes) for number, text in enumerate(texts)]


def render_prompt(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
    """The tokens after which the assistant is to answer ``messages``: the template's, opened for the assistant.

    Raises:
        ModelError: As :func:`tunesmith.data.template.chat_template`.
        SupervisionError: ``supervision.template_refuses``.
    """
    template = chat_template(tokenizer)
    asked = shown_tools(template, Conversation(tuple(messages), tuple(tools)))
    text = template.text(template.messages(asked.messages), asked.tools, generation=True)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [int(token) for token in ids]


def render_conversation(template: ChatTemplate, conversation: Conversation) -> RenderedText:
    """The text of a conversation and which of it trains.

    Raises:
        SupervisionError: ``supervision.template_refuses``, or ``supervision.template_rewrites`` where a trained turn
            cannot be told from the rest of the text.
    """
    given, conversation = conversation, shown_tools(template, conversation)
    messages = template.messages(conversation.messages)
    text = template.text(messages, conversation.tools)
    # A system message that was moved before the user's text shifts all turns by the same number.
    shift = len(conversation.messages) - len(messages)
    notes = _notes(template, conversation, text)
    if shift:
        notes |= Note.SYSTEM_MOVED
    if conversation is not given:
        notes |= Note.TOOLS_AS_TEXT
    spans: list[tuple[int, int]] = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant" and conversation.messages[number + shift].trained:
            span, aligned = _turn(template, messages, conversation.tools, text, number)
            notes |= Note(0) if aligned else Note.PROMPT_DIFFERS
            spans.append(span)
    return RenderedText(text, tuple(spans), notes)


def shown_tools(template: ChatTemplate, conversation: Conversation) -> Conversation:
    """The conversation with its tools and calls as text, where the template would leave them out."""
    calls = any(message.tool_calls for message in conversation.messages)
    return conversation if template.takes_tools or not (conversation.tools or calls) else declared(conversation)


def _turn(
    template: ChatTemplate,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    text: str,
    number: int,
) -> tuple[tuple[int, int], bool]:
    """The trained stretch of one turn, and whether it starts where the prompt for it ends."""
    start = _prompt_length(template, messages[:number], tools, text)
    upto = text if number + 1 == len(messages) else _try_text(template, messages[: number + 1], tools)
    if start is not None and upto is not None and text.startswith(upto) and len(upto) > start:
        return (start, start + len(_without_tail(template, upto[start:]))), True
    found = _placed(template, messages, tools, text, number)
    if found is None and start is not None and messages[number].get("tool_calls"):
        end = _end_before_next(template, messages, tools, text, number)
        if end is not None and end > start:
            return (start, end), True
    if found is None:
        raise SupervisionError(
            "the model's chat template rewrites this conversation, so that an answer cannot be found in the text again",
            code="supervision.template_rewrites",
            value=f"message {number + 1}",
            hint="give the answer weight 0, split the conversation into rows of one answer each, or take another model",
        )
    if start is None or start > found[0]:
        return found, False
    return (start, found[1]), True


def _prompt_length(
    template: ChatTemplate, before: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]], text: str
) -> int | None:
    """Where the prompt for the next turn ends in the text; None where the text does not start with that prompt."""
    if not before:
        return None
    prompt = _try_text(template, before, tools, generation=True)
    return len(prompt) if prompt is not None and text.startswith(prompt) else None


def _try_text(
    template: ChatTemplate,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    *,
    generation: bool = False,
) -> str | None:
    try:
        return template.text(messages, tools, generation=generation)
    except SupervisionError:
        # The whole conversation was taken; a part of it may not be, for instance one that ends with a tool's call.
        return None


def _without_tail(template: ChatTemplate, turn: str) -> str:
    """A turn up to its end-of-turn token; all of it where no token of the template ends it."""
    tail, ends = template.answer_tail, template.end_of_turn
    if ends is not None and turn.endswith(tail):
        return turn[: len(turn) - len(tail) + tail.index(ends) + len(ends)]
    stripped = turn.rstrip()
    tokens = template.token_texts.finditer(stripped) if template.token_texts else ()
    return stripped if any(token.end() == len(stripped) for token in tokens) else turn


def _placed(
    template: ChatTemplate,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    text: str,
    number: int,
) -> tuple[int, int] | None:
    """A turn found through a placeholder for its content, its end-of-turn token included."""
    marked = list(messages)
    marked[number] = {**messages[number], "content": SENTINEL}
    around = _try_text(template, marked, tools)
    if around is None or around.count(SENTINEL) != 1 or messages[number].get("tool_calls"):
        return None
    before, after = around.split(SENTINEL)
    if not (text.startswith(before) and text.endswith(after)) or len(before) + len(after) >= len(text):
        return None
    start, end = len(before), len(text) - len(after)
    if text[start:end].strip() not in messages[number]["content"]:
        return None
    if template.end_of_turn is not None:
        closing = re.match(rf"\s*{re.escape(template.end_of_turn)}", text[end:])
        end += len(closing.group()) if closing else 0
    return start, end


def _end_before_next(
    template: ChatTemplate,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    text: str,
    number: int,
) -> int | None:
    """Where a turn with calls of tools ends: behind the last end-of-turn token before the next message's content."""
    if number + 1 == len(messages) or template.end_of_turn is None:
        return None
    marked = list(messages)
    marked[number + 1] = {**messages[number + 1], "content": SENTINEL}
    around = _try_text(template, marked, tools)
    if around is None or around.count(SENTINEL) != 1:
        return None
    before = around.partition(SENTINEL)[0]
    at = before.rfind(template.end_of_turn)
    return at + len(template.end_of_turn) if at >= 0 and text.startswith(before) else None


def _notes(template: ChatTemplate, conversation: Conversation, text: str) -> Note:
    """What is missing in the text, or stands in a message and looks like the template's own."""
    notes = Note(0)
    for message in conversation.messages:
        content = message.content.strip()
        if template.special_texts and template.special_texts.search(message.content):
            notes |= Note.SPECIAL_TEXT
        # What tools return may rightly be written differently, as JSON.
        if message.role == "tool" or content in text:
            continue
        if message.role != "assistant":
            notes |= Note.MESSAGE_LEFT_OUT
        elif "</think>" in content and content.rpartition("</think>")[2].strip() in text:
            notes |= Note.THINKING_DROPPED
        else:
            notes |= Note.ANSWER_LEFT_OUT
    unused = conversation.tools and text == _try_text(template, template.messages(conversation.messages), ())
    if unused or any(name not in text for name in _function_names(conversation)):
        notes |= Note.TOOLS_LEFT_OUT
    return notes


def _function_names(conversation: Conversation) -> list[str]:
    calls = [call for message in conversation.messages for call in message.tool_calls]
    return [item["function"]["name"] for item in (*conversation.tools, *calls)]
