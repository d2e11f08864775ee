"""Requests and answers of ``/v1/completions``: texts that are continued as they are, without a conversation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.wire.chat import Sampling, Usage

MOST_PROMPTS = 256
# OpenAI's for this path.
DEFAULT_MAX_TOKENS = 16


class CompletionRequest(Sampling):
    """The body of a request. ``prompt`` is a text, the numbers of its tokens, or several of one of these."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: bool | None = False
    best_of: int | None = None

    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts one by one."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return [prompt]
        found: list[str] | list[list[int]] = prompt
        return found

    def most_new_tokens(self) -> int | None:
        """The limit asked for, or OpenAI's own."""
        return self.max_tokens or DEFAULT_MAX_TOKENS


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow")


class CompletionLogprobs(_Wire):
    """The tokens of a text, each with the logarithm of its probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(_Wire):
    """One continuation, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None


class Completion(_Wire):
    """An answer, or a piece of one that is streamed."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
