"""Forms of calls that are not plain JSON: a name before its JSON object, tags, and texts between marks of their own.

Marks that are special tokens of a model are left out of its answers, so each form is read with and without them.
"""

from __future__ import annotations

import json
import re
from typing import Any

_NAME = r"(?P<name>[A-Za-z_][\w.\-]{0,127})"
# What stands between the call before and the object with the arguments; the first that fits names the function.
_HEADS = tuple(
    re.compile(form)
    for form in (
        # Mistral's newer templates.
        rf"\[TOOL_CALLS\]\s*{_NAME}\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\]\s*)?$",
        # DeepSeek's, whose marks have a bar and a block of their own in place of | and _.
        rf"<[|｜]tool[_▁ ]sep[|｜]>\s*{_NAME}\s*(?:```(?:json)?\s*)?$",
        rf"<[|｜]tool[_▁ ]call[_▁ ]begin[|｜]>\s*{_NAME}\s*<[|｜]tool[_▁ ]sep[|｜]>\s*$",
        # Harmony, the form of gpt-oss: the name ends where the channel, the type or the message begins.
        rf"\bto=functions\.{_NAME.replace('{0,127}', '{0,127}?')}(?:\s*<\|channel\|>\s*)?(?:commentary|analysis)?"
        r"(?:(?:\s|<\|constrain\|>)+json)?\s*(?:<\|message\|>\s*)?$",
    )
)
# A name alone on its line, directly before the object: Mistral's form without its marks.
_BARE_HEAD = re.compile(rf"(?:^|\n)\s*{_NAME}(?:\[ARGS\])?$")
_LONGEST_HEAD = 300

_MARKED_CALL = re.compile(r"\bcall:(?P<name>[A-Za-z_][\w.\-]{0,127})\{")
_QUOTE = "<escape>"
_BARE_END = re.compile(r"[,}\]]")
_WORDS = {"True": True, "False": False, "None": None}


def name_before(text: str, behind: int, start: int, *, marked: bool) -> str | None:
    """The function that is named before an object with arguments; None where the object stands for itself.

    Args:
        text: The answer.
        behind: Where the call before ends.
        start: Where the object begins.
        marked: Only a name behind a template's mark counts: the object names a function itself.
    """
    between = text[max(behind, start - _LONGEST_HEAD) : start]
    for form in _HEADS:
        found = form.search(between)
        if found is not None:
            return found["name"]
    found = None if marked else _BARE_HEAD.search(between)
    return None if found is None else found["name"]


def tagged_calls(text: str) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
    """Calls as ``<function=NAME>`` with ``<parameter=NAME>`` or one JSON object inside, the form of Qwen's coders.

    Returns names, arguments as values, and arguments as the texts that they were: the tags do not tell a text of
    digits from a number. A call that is not closed is none.
    """
    calls: list[tuple[str, dict[str, Any], dict[str, str]]] = []
    for piece in text.split("<function=")[1:]:
        name, opened, rest = piece.partition(">")
        body, closed, _ = rest.partition("</function>")
        if not (name.strip() and opened and closed):
            continue
        texts = {}
        for item in body.split("<parameter=")[1:]:
            key, _, value = item.partition(">")
            texts[key.strip()] = value.partition("</parameter>")[0].removeprefix("\n").removesuffix("\n")
        whole = read_value(body.strip()) if body.lstrip().startswith("{") else None
        if isinstance(whole, dict):
            calls.append((name.strip(), whole, {}))
        else:
            calls.append((name.strip(), {key: read_value(value) for key, value in texts.items()}, texts))
    return calls


def read_value(text: str) -> Any:
    """The value that a text without a type is: JSON or a word of Python, else the text itself."""
    stripped = text.strip()
    if stripped in _WORDS:
        return _WORDS[stripped]
    try:
        return json.loads(stripped)
    except (ValueError, RecursionError):
        return text


def marked_calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Calls as ``call:NAME{key:value}``, with texts between ``<escape>``, the form of FunctionGemma.

    Reading ends at the first call that is not closed, as what follows belongs to it.
    """
    calls: list[tuple[str, dict[str, Any]]] = []
    at = 0
    while (found := _MARKED_CALL.search(text, at)) is not None:
        try:
            value, at = _marked_object(text, found.end() - 1)
        except (ValueError, RecursionError):
            break
        calls.append((found["name"], value))
    return calls


def _marked_object(text: str, at: int) -> tuple[dict[str, Any], int]:
    """An object whose brace stands at ``at``, and where it ends; a ValueError where it does not."""
    value: dict[str, Any] = {}
    at += 1
    while text[at : at + 1] != "}":
        colon = text.index(":", at)
        key = text[at:colon].replace(_QUOTE, "").strip(' \n,"')
        value[key], at = _marked_value(text, colon + 1)
        at = _behind_comma(text, at, "}")
    return value, at + 1


def _marked_value(text: str, at: int) -> tuple[Any, int]:
    if text.startswith(_QUOTE, at):
        end = text.index(_QUOTE, at + len(_QUOTE))
        return text[at + len(_QUOTE) : end], end + len(_QUOTE)
    if text[at : at + 1] == "{":
        return _marked_object(text, at)
    if text[at : at + 1] == "[":
        items = []
        at += 1
        while text[at : at + 1] != "]":
            item, at = _marked_value(text, at)
            items.append(item)
            at = _behind_comma(text, at, "]")
        return items, at + 1
    closing = _BARE_END.search(text, at)
    if closing is None:
        raise ValueError("a value without an end")
    return read_value(text[at : closing.start()]), closing.start()


def _behind_comma(text: str, at: int, closing: str) -> int:
    if text[at : at + 1] == ",":
        return at + 1
    if text[at : at + 1] != closing:
        raise ValueError("neither a comma nor an end")
    return at
