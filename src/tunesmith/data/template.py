"""A tokenizer's own chat template, and what a few renderings of known messages tell about it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import orjson

from tunesmith.errors import ModelError, SupervisionError
from tunesmith.formats.examples import Message
from tunesmith.tasks.declared_calls import call_id
from tunesmith.tasks.found_calls import parse_calls

# Letters and digits alone, so that no template trims, splits or escapes it.
SENTINEL = "Kq7tunesmithsentinelZx4"

# What templates raise for messages that they do not take: on purpose, or by adding a text to what is none.
_REFUSALS = (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError)


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of one tokenizer.

    Attributes:
        tokenizer: A fast tokenizer of Transformers.
        end_of_turn: The token text that ends an assistant's turn, or None where the template writes none.
        answer_tail: All text that the template writes behind an answer that comes last.
        why_no_tools: Why tools and calls cannot be left to the template and stand in the text; empty where they can.
        rewrites_ids: Whether the template refuses ids of calls that are not nine letters and digits.
        takes_system: False where the template refuses or drops a system message.
        token_texts: Finds the text of any added token; None where the tokenizer has none.
        special_texts: Finds the text of any special token; None where the tokenizer has none.
    """

    tokenizer: Any
    end_of_turn: str | None
    answer_tail: str
    takes_system: bool
    why_no_tools: str
    rewrites_ids: bool
    token_texts: re.Pattern[str] | None
    special_texts: re.Pattern[str] | None

    @property
    def end_of_turn_id(self) -> int | None:
        """The id of :attr:`end_of_turn`."""
        return None if self.end_of_turn is None else int(self.tokenizer.convert_tokens_to_ids(self.end_of_turn))

    @property
    def takes_tools(self) -> bool:
        """Whether tools and calls are written by the template itself, in a form that is read back."""
        return not self.why_no_tools

    def messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages as templates expect them.

        ``developer`` becomes ``system``, arguments of tool calls are objects, and where the template takes no system
        message its text goes before the first user's. Ids of calls that the template refuses are written anew.
        """
        plain = [_plain(message) for message in messages]
        if self.rewrites_ids:
            _number_calls(plain)
        return plain if self.takes_system else _folded(plain)

    def text(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        generation: bool = False,
    ) -> str:
        """What the template makes of messages from :meth:`messages`; ``generation`` opens the assistant's turn.

        Raises:
            SupervisionError: ``supervision.template_refuses``.
        """
        return _text(self.tokenizer, messages, tools, generation=generation)


def chat_template(tokenizer: Any) -> ChatTemplate:
    """Look at a tokenizer's template.

    Raises:
        ModelError: ``model.no_chat_template``, or ``model.slow_tokenizer`` where it cannot tell which token is which
            stretch of the text.
        SupervisionError: ``supervision.template_refuses``: not even a question with an answer is taken.
    """
    require_fast(tokenizer)
    if not tokenizer.chat_template:
        raise ModelError(
            "the model has no chat template, so it does not know turns",
            code="model.no_chat_template",
            hint="take an instruct or chat model, or train on plain text with task=text",
        )
    added = sorted({token.content for token in tokenizer.added_tokens_decoder.values()} | _eos(tokenizer))
    special = sorted(
        {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} | _eos(tokenizer)
    )
    token_texts, special_texts = any_of(added), any_of(special)
    turn = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": SENTINEL}]
    found, _, tail = _text(tokenizer, turn).rpartition(SENTINEL)
    # A template that leaves answers out has no tail either; the audit tells.
    tail = tail if found else ""
    ends = token_texts.match(tail.lstrip()) if token_texts else None
    try:
        takes_system = SENTINEL in _text(
            tokenizer, [{"role": "system", "content": SENTINEL}, {"role": "user", "content": "Hello"}]
        )
    except SupervisionError:
        takes_system = False
    return ChatTemplate(
        tokenizer,
        ends.group() if ends else None,
        tail,
        takes_system,
        *_about_calls(tokenizer),
        token_texts,
        special_texts,
    )


# As hard as arguments get without being rare: a text with a comma, a text of digits, a number, a list.
_PROBE = {"city": "Paris, France", "code": "00100", "days": 2, "units": ["C", "F"], "exact": True}


def _about_calls(tokenizer: Any) -> tuple[str, bool]:
    """Why the template cannot write tools and calls (empty where it can), and whether it refuses ids of other forms."""
    tool = {"type": "function", "function": {"name": SENTINEL, "description": "", "parameters": {"type": "object"}}}
    user: dict[str, Any] = {"role": "user", "content": "Hello"}

    def called(named: str) -> str:
        call = {"id": named, "type": "function", "function": {"name": SENTINEL, "arguments": _PROBE}}
        return _text(tokenizer, [user, {"role": "assistant", "content": "", "tool_calls": [call]}])

    try:
        if SENTINEL not in _text(tokenizer, [user], [tool]):
            return "the template knows no tools", False
        text = called(call_id(1))
    except SupervisionError:
        return "the template refuses tools or calls", False
    if SENTINEL not in text:
        return "the template leaves calls out", False
    asked = _text(tokenizer, [user])
    shared = next((at for at, pair in enumerate(zip(text, asked, strict=False)) if pair[0] != pair[1]), len(asked))
    if not _reads_back(tokenizer, text[shared:]):
        return "the template writes calls in a form that cannot be read back out of an answer", False
    try:
        called("call_1")
    except SupervisionError:
        return "", True
    return "", False


def _reads_back(tokenizer: Any, text: str) -> bool:
    """Whether the probe is found in a turn as an answer shows it, without special tokens."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    answer = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    found = parse_calls(answer)
    if len(found) != 1 or found[0].name != SENTINEL:
        return False
    return {**found[0].arguments, "code": found[0].texts.get("code", found[0].arguments.get("code"))} == _PROBE


def _number_calls(messages: Sequence[dict[str, Any]]) -> None:
    """Number the calls of messages in ids of nine letters and digits, and name results by the ids of their calls.

    A result without an id, or with one that no call has, is that of the first call that has no result yet.
    """
    known: dict[str, str] = {}
    waiting: list[str] = []
    number = 0
    for message in messages:
        calls = []
        for call in message.get("tool_calls", ()):
            number += 1
            new = call_id(number)
            waiting.append(new)
            if call.get("id") is not None:
                known[call["id"]] = new
            calls.append({**call, "id": new})
        if calls:
            message["tool_calls"] = calls
        if message["role"] == "tool" and (waiting or known):
            new = known.get(message.get("tool_call_id", ""), waiting[0] if waiting else "")
            message["tool_call_id"] = new or message.get("tool_call_id")
            if new in waiting:
                waiting.remove(new)


def require_fast(tokenizer: Any) -> None:
    """Raise a ModelError (``model.slow_tokenizer``) unless the tokenizer knows where its tokens stand in the text."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "the model's tokenizer does not tell where its tokens stand in the text",
            code="model.slow_tokenizer",
            value=type(tokenizer).__name__,
            hint="take a model folder with a tokenizer.json",
        )


def any_of(texts: Sequence[str]) -> re.Pattern[str] | None:
    """A pattern that finds any of some texts, the longest first."""
    ordered = sorted((text for text in texts if text), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def _eos(tokenizer: Any) -> set[str]:
    return {tokenizer.eos_token} if tokenizer.eos_token else set()


def _text(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    generation: bool = False,
) -> str:
    try:
        text = tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=generation
        )
    except _REFUSALS as error:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise SupervisionError(
            f"the model's chat template refuses these messages: {error}",
            code="supervision.template_refuses",
            value=f"roles {roles}",
            hint="change the order or the roles of the messages, or take another model",
        ) from error
    return str(text)


def _plain(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.content,
    }
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_calls:
        plain["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call whose arguments are an object: OpenAI writes them as a text, which templates would quote once more."""
    function = dict(call["function"])
    if isinstance(function["arguments"], str):
        with contextlib.suppress(orjson.JSONDecodeError):
            function["arguments"] = orjson.loads(function["arguments"] or "{}")
    return {**call, "function": function}


def _folded(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the text of leading system messages before the first user's, as templates do that know system messages."""
    leading = 0
    while leading < len(messages) and messages[leading]["role"] == "system":
        leading += 1
    rest = messages[leading:]
    if not leading or not rest or rest[0]["role"] != "user":
        return messages
    texts = [message["content"] for message in messages[:leading]] + [rest[0]["content"]]
    return [{**rest[0], "content": "\n\n".join(texts)}, *rest[1:]]
