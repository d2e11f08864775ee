"""From requests to prompt tokens and generation settings; every refusal in OpenAI's terms."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tunesmith.data.render import render_prompt
from tunesmith.errors import ModelError, SupervisionError, UsageError
from tunesmith.formats.examples import Message
from tunesmith.generation import Decoding
from tunesmith.inference.constraints import ANY_OBJECT, calls_schema, schema_grammar
from tunesmith.inference.failures import RefusedError
from tunesmith.inference.requests import Shaping
from tunesmith.wire.chat import ChatMessage, ChatRequest, NamedTool, Sampling, unsupported_fields

_LONGEST_WITHOUT_LIMIT = 4096


class Tokenizers:
    """Tokenizers by folder, each loaded once; used by the threads that take requests in, one at a time."""

    def __init__(self) -> None:
        self._loaded: dict[Path, Any] = {}
        self.lock = threading.RLock()

    def of(self, folder: Path) -> Any:
        """The tokenizer of a folder, or of a GGUF file.

        Raises:
            ModelError: There is none that can be loaded.
        """
        with self.lock:
            if folder not in self._loaded:
                try:
                    self._loaded[folder] = _load(folder)
                except (OSError, ValueError, KeyError) as error:
                    raise ModelError(
                        "the tokenizer cannot be loaded",
                        code="model.no_tokenizer",
                        place=str(folder),
                        value=str(error)[:300],
                    ) from error
            return self._loaded[folder]


def _load(place: Path) -> Any:
    if place.is_dir():
        return AutoTokenizer.from_pretrained(place, local_files_only=True)
    return AutoTokenizer.from_pretrained(place.parent, gguf_file=place.name, local_files_only=True)


def chat_tokens(tokenizer: Any, request: ChatRequest) -> list[int]:
    """The conversation as training renders it too, open for the assistant's turn.

    Raises:
        RefusedError: The template is missing or does not take this conversation.
    """
    tools = [] if request.tool_choice == "none" else shown_tools(request)
    try:
        return render_prompt(tokenizer, [_message(message) for message in request.messages], tools)
    except ModelError as error:
        raise RefusedError(400, error.message, param="model", code="no_chat_template") from error
    except SupervisionError as error:
        raise RefusedError(
            400,
            f"the model's chat template refuses these messages: {error.value or error.message}",
            param="messages",
            code="template_refused",
        ) from error


def text_tokens(tokenizer: Any, prompt: str | Sequence[int]) -> list[int]:
    """A text as the tokenizer reads it, or tokens as they are; an empty one begins a text.

    Raises:
        RefusedError: A token is not one of the model's, or an empty prompt has no token that could begin it.
    """
    if not isinstance(prompt, str):
        most = len(tokenizer)
        strange = [token for token in prompt if not 0 <= token < most]
        if strange:
            raise RefusedError(
                400, f"Token {strange[0]} is not one of the model's", param="prompt", code="invalid_value"
            )
        found = list(prompt)
    else:
        found = [int(token) for token in tokenizer(prompt, verbose=False)["input_ids"]]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not found and start is None:
        raise RefusedError(400, "the prompt is empty", param="prompt", code="invalid_value")
    return found or [int(start)]


def shown_tools(request: ChatRequest) -> list[Mapping[str, Any]]:
    """The functions of a request in OpenAI's own form."""
    return [tool.model_dump(exclude_none=True) for tool in request.tools or []]


def _message(message: ChatMessage) -> Message:
    extra = message.model_extra or {}
    return Message(
        role=message.role,
        content=message.text(),
        name=extra.get("name"),
        tool_calls=tuple(extra.get("tool_calls") or ()),
        tool_call_id=extra.get("tool_call_id"),
    )


def decoding_for(request: Sampling, prompt_length: int, context: int | None, *, param: str = "messages") -> Decoding:
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
            f"{prompt_length + (asked or 1)} tokens ({prompt_length} in the {param}, {asked or 1} in the completion). "
            f"Please reduce the length of the {param} or completion.",
            param=param,
            code="context_length_exceeded",
        )
    room = _LONGEST_WITHOUT_LIMIT if context is None else context - prompt_length
    return Decoding(
        max_new_tokens=room if asked is None else asked,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=secrets.randbits(32) if request.seed is None and request.temperature != 0 else request.seed or 0,
        stop=request.stop_texts(),
    )


def shaping_for(request: Sampling, vocabulary: int) -> Shaping:
    """What else decides about the next token.

    Raises:
        RefusedError: A token of the bias is not one of the model's, or no answer can be kept to the form asked for.
    """
    bias = {token: value for token, value in (request.logit_bias or {}).items() if value}
    strange = [token for token in bias if not 0 <= token < vocabulary]
    if strange:
        raise RefusedError(
            400, f"Token {strange[0]} is not one of the model's", param="logit_bias", code="invalid_value"
        )
    try:
        schema = _schema(request) if isinstance(request, ChatRequest) else None
        if schema is not None:
            schema_grammar(schema)
    except UsageError as error:
        param = "tools" if _must_call(request) else "response_format"
        raise RefusedError(400, f"{error.message}: {error.value}", param=param, code="unsupported_schema") from error
    return Shaping(request.presence_penalty or 0.0, request.frequency_penalty or 0.0, bias, schema)


def _must_call(request: Sampling) -> bool:
    choice = request.tool_choice if isinstance(request, ChatRequest) else None
    return choice == "required" or isinstance(choice, NamedTool)


def _schema(request: ChatRequest) -> Mapping[str, Any] | None:
    if _must_call(request):
        tools = _asked_tools(request)
        one = isinstance(request.tool_choice, NamedTool) or request.parallel_tool_calls is False
        return calls_schema(tools, 1) if one else calls_schema(tools)
    form = request.response_format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return ANY_OBJECT
    if form.json_schema is None:
        raise RefusedError(400, "a schema is missing", param="response_format.json_schema", code="invalid_value")
    return form.json_schema.schema_


def _asked_tools(request: ChatRequest) -> list[Mapping[str, Any]]:
    tools = shown_tools(request)
    if isinstance(request.tool_choice, NamedTool):
        name = request.tool_choice.function.name
        tools = [tool for tool in tools if tool["function"]["name"] == name]
    if not tools:
        raise RefusedError(
            400, "a call is asked for, and no such tool is given", param="tool_choice", code="invalid_value"
        )
    return tools
