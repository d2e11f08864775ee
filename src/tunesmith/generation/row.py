"""One prompt and what was generated after it so far."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.generation.decoding import Decoding, FinishReason, Generation
from tunesmith.generation.plan import context_length
from tunesmith.generation.text import TextStream
from tunesmith.models.prompted import virtual_token_count


@dataclass
class Row:
    """A row in the making. ``index`` is its place among the rows of its request; it goes into its randomness."""

    index: int
    prompt: Sequence[int]
    most_tokens: int
    text: TextStream
    random: random.Random
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    last_text: str = ""
    shared: int = 0

    @staticmethod
    def of(index: int, prompt: Sequence[int], model: Any, tokenizer: Any, decoding: Decoding) -> Row:
        """A row that ends where its decoding or the model's context ends."""
        return Row.within(room_of(model), index, prompt, tokenizer, decoding)

    @staticmethod
    def within(context: int | None, index: int, prompt: Sequence[int], tokenizer: Any, decoding: Decoding) -> Row:
        """A row that ends where its decoding or a context of so many tokens ends."""
        room = decoding.max_new_tokens if context is None else min(decoding.max_new_tokens, context - len(prompt))
        source = random.Random(f"{decoding.seed}/{index}")  # noqa: S311  sampling, not secrets
        return Row(index, prompt, room, TextStream(tokenizer, decoding.stop), source)

    def take(self, token: int, stop_token_ids: frozenset[int]) -> str | None:
        """Add a token; the text it brings, or None where it ended the row without a token of its own."""
        if token in stop_token_ids:
            self._finish("stop")
            return None
        self.tokens.append(token)
        piece = self.text.push(token)
        if self.text.stopped:
            self._finish("stop")
        elif len(self.tokens) >= self.most_tokens:
            self._finish("length")
        return piece

    def _finish(self, reason: FinishReason) -> None:
        self.last_text = self.text.finish()
        # What was held back can itself hold a stop text once nothing more can come.
        self.finish_reason = "stop" if self.text.stopped else reason

    def result(self) -> Generation:
        """The whole answer of a finished row."""
        assert self.finish_reason is not None
        return Generation(tuple(self.tokens), self.text.text, self.finish_reason, len(self.prompt), self.shared)


def room_of(model: Any) -> int | None:
    """The context that prompts and answers have, virtual tokens taken off."""
    context = context_length(model)
    return None if context is None else context - virtual_token_count(model)
