"""What the engines are asked, and what they answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from tunesmith.generation import Decoding
from tunesmith.generation.decoding import FinishReason


@dataclass(frozen=True)
class TokenScore:
    """One token and the logarithm of its probability."""

    token_id: int
    logprob: float


@dataclass(frozen=True)
class ScoredToken:
    """A token that was chosen, its score, and the likeliest tokens in its place."""

    chosen: TokenScore
    likeliest: tuple[TokenScore, ...]


@dataclass(frozen=True)
class Piece:
    """A piece of one of a request's answers; ``index`` says of which.

    ``text`` is what became readable, often empty. The last piece of an answer has the finish reason and no token.
    """

    index: int
    text: str
    scored: ScoredToken | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Answer:
    """A whole answer; ``token_ids`` without the one that ended it."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    scored: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True)
class Shaping:
    """What changes the scores of tokens before one is chosen.

    Args:
        presence_penalty: Taken off the score of every token that the answer has.
        frequency_penalty: Taken off as often as the answer has the token.
        bias: Added to the scores of tokens, by their numbers.
        schema: The JSON schema that the answer must have.
    """

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it changes nothing."""
        penalties = self.presence_penalty or self.frequency_penalty
        return not penalties and not self.bias and self.schema is None


@dataclass(frozen=True)
class Request:
    """A prompt to continue, once or several times.

    Args:
        model: The name of a served model.
        prompt: Its tokens.
        decoding: How to continue.
        answers: How many answers are wanted.
        shaping: What else decides about the next token.
        likeliest: How many of the likeliest tokens to tell for each that was chosen; None for no scores at all.
        tenant: Who asks; those who wait are served in turn by what each has had.
        on_piece: Called from the engine's thread for each piece as it comes.
        begun: Set by the engine once the request's turn has come, and its prompt is read.
        cancelled: Set by whoever no longer wants the answer.
        done: Gets the answers in their order.
    """

    model: str
    prompt: list[int]
    decoding: Decoding
    answers: int = 1
    shaping: Shaping = field(default_factory=Shaping)
    likeliest: int | None = None
    tenant: str = ""
    on_piece: Callable[[Piece], None] | None = None
    begun: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: Future[list[Answer]] = field(default_factory=Future)


class Engine(Protocol):
    """Answers requests; whatever runs below it."""

    def start(self) -> None:
        """Begin to answer."""

    def submit(self, request: Request) -> None:
        """Take a request; what becomes of it arrives at ``request.done``.

        Raises:
            BusyError: So many wait already that this one would wait too long.
        """

    def close(self) -> None:
        """Answer what was taken, then end."""


class BusyError(Exception):
    """Too many requests wait."""
