"""From a chat request to prompt tokens and generation settings; every refusal in OpenAI's terms."""

from __future__ import annotations

import secrets
from typing import Any

from tunesmith.data.render import render_prompt
from tunesmith.errors import ModelError, SupervisionError
from tunesmith.formats.examples import Message
from tunesmith.generation import Decoding
from tunesmith.wire.chat import ChatMessage, ChatRequest, ErrorDetail, unsupported_fields


class RefusedError(Exception):
    """A request that cannot be served, with the status and body to answer."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(message=message, type="invalid_request_error", param=param, code=code)


def prompt_tokens(tokenizer: Any, request: ChatRequest) -> list[int]:
    """The conversation as training renders it too, open for the assistant's turn.

    Raises:
        RefusedError: The template is missing or does not take this conversation.
    """
    try:
        return render_prompt(tokenizer, [_message(message) for message in request.messages])
    except ModelError as error:
        raise RefusedError(400, error.message, param="model", code="no_chat_template") from error
    except SupervisionError as error:
        raise RefusedError(
            400,
            f"the model's chat template refuses these messages: {error.value or error.message}",
            param="messages",
            code="template_refused",
        ) from error


def _message(message: ChatMessage) -> Message:
    extra = message.model_extra or {}
    return Message(
        role=message.role,
        content=message.text(),
        name=extra.get("name"),
        tool_calls=tuple(extra.get("tool_calls") or ()),
        tool_call_id=extra.get("tool_call_id"),
    )


def decoding_for(request: ChatRequest, prompt_length: int, context: int | None) -> Decoding:
    """Generation settings, within the model's context.

    Raises:
        RefusedError: Prompt and asked-for answer do not fit into the context, or a field is not supported.
    """
    unsupported = unsupported_fields(request)
    if unsupported:
        names = ", ".join(unsupported)
        raise RefusedError(400, f"not supported here: {names}", param=unsupported[0], code="unsupported_parameter")
    asked = request.most_new_tokens()
    if context is not None and prompt_length + (asked or 1) > context:
        raise RefusedError(
            400,
            f"This model's maximum context length is {context} tokens. However, you requested "
            f"{prompt_length + (asked or 1)} tokens ({prompt_length} in the messages, {asked or 1} in the completion). "
            "Please reduce the length of the messages or completion.",
            param="messages",
            code="context_length_exceeded",
        )
    room = 4096 if context is None else context - prompt_length
    return Decoding(
        max_new_tokens=room if asked is None else asked,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=secrets.randbits(32) if request.seed is None and request.temperature != 0 else request.seed or 0,
        stop=request.stop_texts(),
    )
