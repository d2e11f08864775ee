"""Bodies of requests to models, as far as the service itself reads them; the rest is the engine's to judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from tunesmith.service.errors import ApiError

Path = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/classify"]
# They write for as long as it takes, so that they can be streamed, and stopped.
_WRITING: tuple[Path, ...] = ("/v1/chat/completions", "/v1/completions")


@dataclass(frozen=True)
class Question:
    """A request to a model.

    Attributes:
        path: The engine's path.
        model: Which model or deployment is asked.
        body: All of it.
        streams: Whether the answer is wanted piece by piece.
        wants_usage: Whether token counts are wanted at the end of a stream.
    """

    path: Path
    model: str
    body: dict[str, Any]
    streams: bool
    wants_usage: bool

    @property
    def writes(self) -> bool:
        """Whether a text is written; vectors and labels are there at once."""
        return self.path in _WRITING

    def for_engine(self, model: str) -> dict[str, Any]:
        """The body as the engine gets it: its own name of the model, and token counts for the service's books."""
        body = {**self.body, "model": model}
        if self.streams:
            body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        return body


def read_question(path: Path, content: bytes, deployment: str | None) -> Question:
    """Read a body.

    Args:
        path: The engine's path.
        content: What was sent.
        deployment: The name in Azure's paths, which counts more than that in the body.

    Raises:
        ApiError: 400: it is no JSON object, or names no model.
    """
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"Invalid request: the body is not JSON: {error}", code="invalid_value") from error
    if not isinstance(body, dict):
        raise ApiError(400, "Invalid request: the body must be a JSON object", code="invalid_value")
    model = deployment if deployment is not None else body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "you must provide a model parameter", param="model", code="missing_required_parameter")
    stream, options = body.get("stream"), body.get("stream_options")
    if stream not in (None, False, True):
        raise ApiError(400, "Invalid value for 'stream': true or false", param="stream", code="invalid_value")
    if options is not None and not isinstance(options, dict):
        raise ApiError(
            400, "Invalid value for 'stream_options': an object", param="stream_options", code="invalid_value"
        )
    if options is not None and not stream:
        raise ApiError(400, "'stream_options' is for streamed answers", param="stream_options", code="invalid_value")
    streams = path in _WRITING and stream is True
    return Question(path, model, body, streams, bool((options or {}).get("include_usage")))
