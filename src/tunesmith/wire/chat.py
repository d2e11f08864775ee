"""Requests and answers of ``/v1/chat/completions`` and ``/v1/models``, and the body of an error.

Fields that do not change the answer (``user``, ``metadata``, ...) are let through unread. Fields that would change
it and are not served yet are named by :func:`unsupported_fields`, so that a caller is told instead of ignored.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow")


class TextPart(_Wire):
    """One part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(_Wire):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None

    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(_Wire):
    """What a stream brings beside the answer."""

    include_usage: bool = False


class ChatRequest(_Wire):
    """The body of a request for an answer. Sampling follows OpenAI's defaults: temperature 1, top_p 1."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    def most_new_tokens(self) -> int | None:
        """The limit asked for, by its newer or its older name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def stop_texts(self) -> tuple[str, ...]:
        """The stop texts as a tuple; empty ones mean nothing and are left out."""
        texts = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in texts if text)


# What each field may be without changing the answer.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "tools": (None, []),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "audio": (None,),
    "modalities": (None, ["text"]),
}


def unsupported_fields(request: ChatRequest) -> list[str]:
    """Fields of the request that ask for something this version cannot do."""
    extra = request.model_extra or {}
    return [name for name, harmless in _HARMLESS.items() if name in extra and extra[name] not in harmless]


class Usage(_Wire):
    """Token counts of one answer; the end-of-turn token is not counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(_Wire):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(_Wire):
    """One answer and why it ended."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChatCompletion(_Wire):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Delta(_Wire):
    """What a chunk adds to the assistant's turn."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(_Wire):
    """A piece of one answer."""

    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: FinishReason | None = None


class ChatChunk(_Wire):
    """One line of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ModelObject(_Wire):
    """A model that can be named in a request."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tunesmith"


class ModelList(_Wire):
    """All models that can be named."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ErrorDetail(_Wire):
    """What went wrong; all four keys are always present on the wire."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(_Wire):
    """The body of every answer that is not a success."""

    error: ErrorDetail
