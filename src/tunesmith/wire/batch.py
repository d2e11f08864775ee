"""Lines of OpenAI's batch files: what is asked, and what came of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

BatchUrl = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/classify"]


class BatchRequest(BaseModel):
    """A line that asks. ``body`` is that of a request to ``url``, without streaming."""

    model_config = ConfigDict(extra="forbid")
    custom_id: str = Field(min_length=1, max_length=512)
    method: Literal["POST"]
    url: BatchUrl
    body: dict[str, Any]


class BatchResponse(BaseModel):
    """What the server said."""

    status_code: int
    request_id: str
    body: dict[str, Any]


class BatchError(BaseModel):
    """Why there is no response."""

    code: str
    message: str


class BatchResult(BaseModel):
    """A line that answers: a response, or an error where there was none."""

    id: str
    custom_id: str
    response: BatchResponse | None
    error: BatchError | None = None
