"""A small client for an OpenAI-style chat server, with Tunesmith's errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import ValidationError

from tunesmith.errors import ModelError, NetworkError, TunesmithError, UsageError, WorkerError
from tunesmith.wire.chat import ChatChunk, ChatCompletion, ErrorBody, ModelList
from tunesmith.wire.classify import Classification, Classified

Messages = Sequence[Mapping[str, Any]]
Inputs = Sequence[str | Mapping[str, str]]


class InferenceClient:
    """Talks to one server.

    Args:
        base_url: Such as ``http://127.0.0.1:4321``; the paths begin with ``/v1`` below it.
        token: Sent as the bearer token.
        timeout_seconds: The longest silence of the server that is waited for.
        headers: More headers of every request.
    """

    def __init__(
        self, base_url: str, token: str, *, timeout_seconds: float = 600.0, headers: Mapping[str, str] | None = None
    ) -> None:
        self.base_url = base_url
        # Proxy settings of the environment are not for a server that is named by its address.
        self._http = httpx.Client(
            base_url=base_url,
            headers={**(headers or {}), "Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(timeout_seconds, connect=10.0),
            # As many as the user asks at once.
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    def chat(self, messages: Messages, model: str, **options: Any) -> str:
        """The assistant's answer; ``options`` are fields of the request such as ``temperature`` and ``max_tokens``.

        Raises:
            UsageError: The server refused the request; ``code`` is ``inference.`` and the server's own.
            ModelError: It knows no such model.
            WorkerError: It failed.
            NetworkError: It did not answer.
        """
        return self.complete(messages, model, **options).choices[0].message.content or ""

    def complete(self, messages: Messages, model: str, **options: Any) -> ChatCompletion:
        """As :meth:`chat`, with finish reason and token counts."""
        with self._telling():
            answer = self._http.post("/v1/chat/completions", json=_body(messages, model, options, stream=False))
            _raise_for_error(answer)
            return ChatCompletion.model_validate_json(answer.content)

    def stream(self, messages: Messages, model: str, **options: Any) -> Iterator[str]:
        """The answer piece by piece; closing the iterator tells the server to stop. Raises as :meth:`chat`."""
        body = _body(messages, model, options, stream=True)
        with self._telling(), self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                answer.read()
            _raise_for_error(answer)
            ended = False
            for line in answer.iter_lines():
                data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                ended = ended or data == "[DONE]"
                if not data or data == "[DONE]":
                    continue
                yield from _texts(data)
            if not ended:
                raise WorkerError("the answer broke off", code="inference.broken_stream", place=self.base_url)

    def classify(self, inputs: Inputs, model: str) -> list[Classified]:
        """What a model with a head says of each text, or of each question with its context. Raises as :meth:`chat`."""
        with self._telling():
            answer = self._http.post("/v1/classify", json={"model": model, "input": list(inputs)})
            _raise_for_error(answer)
            return Classification.model_validate_json(answer.content).data

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        """The status and the body that a path answers with, whatever they are.

        Raises:
            NetworkError: The server did not answer.
            WorkerError: It answered with something other than a JSON object.
        """
        with self._telling():
            answer = self._http.post(path, json=dict(body))
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise WorkerError(
                "the inference server answered with something that is no JSON object",
                code="inference.bad_answer",
                place=path,
                value=answer.status_code,
            )
        return answer.status_code, found

    def models(self) -> list[str]:
        """The names that ``model`` may have. Raises as :meth:`chat`."""
        with self._telling():
            answer = self._http.get("/v1/models")
            _raise_for_error(answer)
            return [model.id for model in ModelList.model_validate_json(answer.content).data]

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise NetworkError(
                "the inference server did not answer",
                code="inference.no_answer",
                place=self.base_url,
                value=str(error) or type(error).__name__,
                hint="look whether its process still runs",
            ) from error
        except ValidationError as error:
            raise WorkerError(
                "the server's answer is not in the form of OpenAI's chat interface",
                code="inference.bad_answer",
                place=self.base_url,
                value=str(error.errors(include_url=False)[0]["msg"]),
            ) from error


def _body(messages: Messages, model: str, options: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    return {**options, "model": model, "messages": [dict(message) for message in messages], "stream": stream}


def _texts(data: str) -> Iterator[str]:
    if data.startswith('{"error"'):
        raise _error(500, ErrorBody.model_validate_json(data))
    for choice in ChatChunk.model_validate_json(data).choices:
        if choice.delta.content:
            yield choice.delta.content


def _raise_for_error(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    try:
        body = ErrorBody.model_validate_json(answer.content)
    except ValidationError:
        raise WorkerError(
            "the inference server answered with an error it did not explain",
            code="inference.unexplained",
            place=str(answer.url),
            value=answer.status_code,
        ) from None
    raise _error(answer.status_code, body)


def _error(status: int, body: ErrorBody) -> TunesmithError:
    code = f"inference.{body.error.code or body.error.type}"
    kind: type[TunesmithError] = UsageError
    if status == httpx.codes.NOT_FOUND:
        kind = ModelError
    elif status >= httpx.codes.INTERNAL_SERVER_ERROR:
        kind = WorkerError
    return kind(body.error.message, code=code, place=body.error.param)
