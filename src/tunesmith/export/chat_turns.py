"""A chat template as plain texts around the turns, for programs that do not run Jinja: Ollama and Foundry Local.

Nothing is guessed from a template's source. Conversations of words that stand nowhere else are rendered, cut at these
words, and put together again; only where that gives what the template gives is the result used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_SYSTEM, _USER, _ANSWER, _SECOND = "SYSTEMMARK", "USERMARK", "ANSWERMARK", "SECONDMARK"
Message = dict[str, str]


@dataclass(frozen=True)
class Turns:
    """What stands around each kind of turn; the user's end opens the answer as well.

    ``first`` comes once before everything: the token that begins a text, which most programs add themselves. ``system``
    is None where the template takes no such turn; ``default_system`` is said where none is given.
    """

    first: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: tuple[str, str]
    default_system: str | None = None

    def render(self, messages: list[Message]) -> str:
        """A conversation that ends with the user's turn, open for the answer."""
        if self.default_system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.default_system}, *messages]
        around = {"system": self.system or ("", ""), "user": self.user, "assistant": self.assistant}
        parts = [f"{around[one['role']][0]}{one['content']}{around[one['role']][1]}" for one in messages]
        return self.first + "".join(parts)


def turns_of(tokenizer: Any) -> Turns | None:
    """Take the tokenizer's chat template apart; None where there is none, or it is more than a list of turns."""
    if not isinstance(getattr(tokenizer, "chat_template", None), str):
        return None
    plain = _rendered(tokenizer, [_user(_USER)])
    longer = _rendered(tokenizer, [_user(_USER), _assistant(_ANSWER), _user(_SECOND)])
    with_system = _rendered(tokenizer, [{"role": "system", "content": _SYSTEM}, _user(_USER)])
    if plain is None or longer is None:
        return None
    short, long = _cut(plain, [_USER]), _cut(longer, [_USER, _ANSWER, _SECOND])
    if short is None or long is None:
        return None
    (before, opening), (_, to_answer, to_second, _) = short, long
    if not to_answer.startswith(opening):
        return None
    answer_start = to_answer[len(opening) :]
    bos = str(tokenizer.bos_token or "")
    # A token can both begin a text and begin every turn, so first it is tried as a part of the turn.
    for first in ("", bos) if bos and before.startswith(bos) else ("",):
        behind = before[len(first) :]
        for start in _starts(tokenizer, behind, to_second):
            assistant = answer_start, to_second[: len(to_second) - len(start)]
            plain_turns = Turns(first, None, (start, opening), assistant)
            turns = _with_system(plain_turns, behind, with_system) or plain_turns
            if _is_right(tokenizer, turns):
                return turns
    return None


def _starts(tokenizer: Any, before: str, to_second: str) -> list[str]:
    """What may begin a user's turn, by what stands before the first and the second one."""
    found = [before] if to_second.endswith(before) else []
    closed = _rendered(tokenizer, [_user(_USER), _assistant(_ANSWER)], opens=False)
    end = None if closed is None else _cut(closed, [_ANSWER])
    if end is not None and end[1] and to_second.startswith(end[1]) and before.endswith(to_second[len(end[1]) :]):
        found.append(to_second[len(end[1]) :])
    return [*found, _common_end(before, to_second)]


def _common_end(one: str, other: str) -> str:
    same = next((at for at, (a, b) in enumerate(zip(one[::-1], other[::-1], strict=False)) if a != b), None)
    length = min(len(one), len(other)) if same is None else same
    return one[len(one) - length :]


def _with_system(turns: Turns, before: str, rendered: str | None) -> Turns | None:
    """The turns with what stands around a system message, and the one that is said where none is given."""
    cut = None if rendered is None else _cut(rendered, [_SYSTEM, _USER])
    if cut is None or not cut[1].endswith(turns.user[0]) or not cut[0].startswith(turns.first):
        return None
    system = cut[0][len(turns.first) :], cut[1][: len(cut[1]) - len(turns.user[0])]
    default = None
    said = before[: len(before) - len(turns.user[0])]
    if said and said.startswith(system[0]) and said.endswith(system[1]):
        default = said[len(system[0]) : len(said) - len(system[1])]
    return Turns(turns.first, system, turns.user, turns.assistant, default)


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _rendered(tokenizer: Any, messages: list[Message], *, opens: bool = True) -> str | None:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens))
    except Exception:
        # A template may refuse a role with an error of any kind.
        return None


def _cut(text: str, marks: list[str]) -> list[str] | None:
    """What stands before, between and behind the marks; None where one is missing or stands there twice."""
    pieces = []
    for mark in marks:
        if text.count(mark) != 1:
            return None
        piece, text = text.split(mark)
        pieces.append(piece)
    return [*pieces, text]


def _is_right(tokenizer: Any, turns: Turns) -> bool:
    """Whether the turns give what the template gives, for conversations of several lengths."""
    asked, answered = _user("What is it?"), _assistant("A parcel.")
    tried = [[asked], [asked, answered, asked], [asked, answered, asked, answered, asked]]
    if turns.system is not None:
        tried += [[{"role": "system", "content": "Be brief."}, *one] for one in tried]
    return all(_rendered(tokenizer, one) == turns.render(one) for one in tried)
