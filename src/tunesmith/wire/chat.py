"""Requests and answers of ``/v1/chat/completions`` and ``/v1/models``, and the body of an error.

Fields that do not change the answer (``user``, ``metadata``, ...) are let through unread. Fields that would change
it and are not served yet are named by :func:`unsupported_fields`, so that a caller is told instead of ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length", "tool_calls"]


# Of one request; more would hold up everybody else.
MOST_ANSWERS = 16


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True)


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


class FunctionTool(_Wire):
    """A function that the model may call."""

    type: Literal["function"] = "function"
    function: FunctionDefinition


class FunctionDefinition(_Wire):
    """A function's name and, as a JSON schema, its arguments."""

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class NamedTool(_Wire):
    """Asks for a call of one function."""

    type: Literal["function"] = "function"
    function: NamedFunction


class NamedFunction(_Wire):
    """The function's name."""

    name: str


class JsonSchema(_Wire):
    """The schema that an answer must have."""

    name: str | None = None
    schema_: dict[str, Any] = Field(alias="schema", default_factory=dict)


class ResponseFormat(_Wire):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class StreamOptions(_Wire):
    """What a stream brings beside the answer: token counts at its end, or (not of OpenAI) so far with every chunk."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Sampling(_Wire):
    """What requests for answers of every kind have in common. Defaults are OpenAI's: temperature 1, top_p 1."""

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MOST_ANSWERS)
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    def most_new_tokens(self) -> int | None:
        """The limit asked for."""
        return self.max_tokens

    def stop_texts(self) -> tuple[str, ...]:
        """The stop texts as a tuple; empty ones mean nothing and are left out."""
        texts = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in texts if text)


class ChatRequest(Sampling):
    """The body of a request for an answer in a conversation."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    def most_new_tokens(self) -> int | None:
        """The limit asked for, by its newer or its older name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


# What each field may be without changing the answer.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "functions": (None, []),
    "function_call": (None, "none"),
    "audio": (None,),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "web_search_options": (None,),
    "suffix": (None, ""),
}


def unsupported_fields(request: Sampling) -> list[str]:
    """Fields of the request that ask for something this version cannot do."""
    extra = request.model_extra or {}
    return [name for name, harmless in _HARMLESS.items() if name in extra and extra[name] not in harmless]


class Usage(_Wire):
    """Token counts of one answer; the end-of-turn token is not counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CalledFunction(_Wire):
    """A function's name and its arguments as JSON."""

    name: str
    arguments: str


class ToolCall(_Wire):
    """A call that the model asks for; ``index`` is its place where it is streamed."""

    index: int | None = None
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AnswerMessage(_Wire):
    """The assistant's turn: words, or calls."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class TokenLogprob(_Wire):
    """A token, the logarithm of its probability, and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenLogprob(TokenLogprob):
    """The token that was chosen, and the likeliest in its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(_Wire):
    """The tokens of an answer."""

    content: list[ChosenLogprob]
    refusal: None = None


class Choice(_Wire):
    """One answer and why it ended."""

    index: int = 0
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
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
    tool_calls: list[ToolCall] | None = None


class ChunkChoice(_Wire):
    """A piece of one answer."""

    index: int = 0
    delta: Delta
    logprobs: ChatLogprobs | None = None
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
