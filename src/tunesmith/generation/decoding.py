"""What a caller asks of a generation, and what it gets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.errors import Problem, UsageError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Decoding:
    """How to continue a prompt.

    Args:
        max_new_tokens: The most tokens to add; a row also ends where the model's context ends.
        temperature: 0 takes the likeliest token each time (greedy); above 0 samples.
        top_p: Sampling only: keep the smallest set of likeliest tokens whose probability reaches this.
        seed: Sampling only: the same seed, prompt and place in the list give the same tokens however rows are batched.
        stop: Texts that end the answer; neither they nor what follows is part of it.
        stop_token_ids: Tokens that end the answer; None means the model's and the tokenizer's own.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        found = [
            Problem("generation.bad_decoding", message, place=key, value=str(getattr(self, key)))
            for key, good, message in (
                ("max_new_tokens", self.max_new_tokens >= 1, "must be at least 1"),
                ("temperature", self.temperature >= 0, "must not be negative"),
                ("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1"),
                ("stop", all(self.stop), "must not hold an empty text"),
            )
            if not good
        ]
        if found:
            raise UsageError("these generation settings make no sense", problems=found)


@dataclass(frozen=True)
class Generation:
    """One answer.

    ``token_ids`` are the tokens added, without the stop token; ``text`` is cut before a stop text, so it can be
    shorter than the tokens. A character whose bytes were not all generated is left out at the end of the text.
    ``shared_prefix_tokens`` is how many prompt tokens were computed once for all rows of the call; it is 0 where
    nothing is shared and for models that :func:`tunesmith.generation.shares_prefix` refuses.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    shared_prefix_tokens: int


@dataclass(frozen=True)
class TokenPiece:
    """A piece of a streamed answer.

    ``text`` is what became readable with this token, often empty while a character or a possible stop text is
    incomplete. The last piece has no token; it brings the remaining text, the finish reason and the usage.
    """

    text: str
    token_id: int | None
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def resolve_stop_token_ids(model: Any, tokenizer: Any, decoding: Decoding) -> frozenset[int]:
    """The tokens that end an answer: those asked for, else every end token of the model and of the tokenizer."""
    if decoding.stop_token_ids is not None:
        return frozenset(decoding.stop_token_ids)
    named = (
        getattr(model.config, "eos_token_id", None),
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    )
    found: set[int] = set()
    for value in named:
        if isinstance(value, Iterable):
            found.update(value)
        elif value is not None:
            found.add(value)
    return frozenset(found)
