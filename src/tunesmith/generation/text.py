"""Turn tokens into text as they come: whole characters only, and cut exactly before a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"


class TextStream:
    """The readable text of a growing list of tokens.

    Text that may still change is held back: bytes of an unfinished character, and a tail that may become a stop text.
    Once ``stopped`` is true a stop text was met; further tokens are ignored.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._window_start = 0
        self._read = 0
        self._held = ""

    def push(self, token_id: int) -> str:
        """Take one token; return the text that is now certain."""
        if self.stopped:
            return ""
        self._tokens.append(token_id)
        # A token's text can depend on the tokens before it (leading spaces), so a short window is decoded twice:
        # without and with what is new.
        before = self._decode(self._tokens[self._window_start : self._read])
        after = self._decode(self._tokens[self._window_start :])
        if after.endswith(BROKEN) or len(after) <= len(before):
            return ""
        self._window_start, self._read = self._read, len(self._tokens)
        return self._emit(after[len(before) :], final=False)

    def finish(self) -> str:
        """Return what was held back; an unfinished character is left out."""
        if self.stopped:
            return ""
        before = self._decode(self._tokens[self._window_start : self._read])
        after = self._decode(self._tokens[self._window_start :]).rstrip(BROKEN)
        self._window_start = self._read = len(self._tokens)
        return self._emit(after[len(before) :], final=True)

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _emit(self, fresh: str, *, final: bool) -> str:
        pending = self._held + fresh
        # The stop text that is complete first wins, so the cut does not depend on how the text falls into tokens.
        met = [(at + len(stop), at) for stop in self._stop if (at := pending.find(stop)) >= 0]
        if met:
            self.stopped, certain = True, min(met)[1]
        else:
            certain = len(pending) - (0 if final else self._possible_stop(pending))
        self._held = pending[certain:]
        self.text += pending[:certain]
        return pending[:certain]

    def _possible_stop(self, text: str) -> int:
        """Length of the longest tail of ``text`` that begins a stop text."""
        for length in range(min(len(text), max((len(stop) for stop in self._stop), default=0)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
