"""From a chat request to prompt tokens and generation settings; every refusal in OpenAI's terms."""

from __future__ import annotations

import secrets
from typing import Any

import jinja2

from tunesmith.generation import Decoding
from tunesmith.wire.chat import ChatRequest, ErrorDetail, unsupported_fields


class RefusedError(Exception):
    """A request that cannot be served, with the status and body to answer."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(message=message, type="invalid_request_error", param=param, code=code)


def prompt_tokens(tokenizer: Any, request: ChatRequest) -> list[int]:
    """The conversation as the tokenizer's own template renders it, open for the assistant's turn.

    Raises:
        RefusedError: The template is missing or does not take this conversation.
    """
    if tokenizer.chat_template is None:
        raise RefusedError(400, "this model has no chat template", param="model", code="no_chat_template")
    messages = [
        {**(message.model_extra or {}), "role": message.role, "content": message.text()} for message in request.messages
    ]
    try:
        tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    except jinja2.TemplateError as error:
        raise RefusedError(
            400, f"the model's chat template refuses these messages: {error}", param="messages", code="template_refused"
        ) from error
    return [int(token) for token in tokens]


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
