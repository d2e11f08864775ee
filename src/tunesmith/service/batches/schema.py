"""OpenAI's batch: what creates one, and how it is told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

from tunesmith.service.errors import ApiError

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/classify")
WINDOW_SECONDS = {"24h": 24 * 3600.0}
# A moment of each state, in OpenAI's order.
MOMENTS = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)
ENDED = ("failed", "completed", "expired", "cancelled")
_Key = str


class OutputExpiry(BaseModel):
    """How long the files of answers are kept, in seconds."""

    model_config = ConfigDict(extra="forbid")
    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


class CreateBatch(BaseModel):
    """The body that creates a batch. What is not known is let through, as OpenAI does it."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: OutputExpiry | None = None

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ApiError: 400.
        """
        if self.endpoint not in ENDPOINTS:
            raise ApiError(
                400,
                f"Invalid value for 'endpoint': {self.endpoint}; batches are answered for {', '.join(ENDPOINTS)}",
                code="invalid_value",
                param="endpoint",
            )
        if self.completion_window not in WINDOW_SECONDS:
            raise ApiError(400, "completion_window must be 24h", code="invalid_value", param="completion_window")
        pairs = self.metadata or {}
        if len(pairs) > 16 or any(len(key) > 64 or len(value) > 512 for key, value in pairs.items()):
            raise ApiError(
                400,
                "metadata has at most 16 pairs, keys of at most 64 and values of at most 512 letters",
                code="invalid_value",
                param="metadata",
            )


def shown(row: Row[Any]) -> dict[str, Any]:
    """A batch as OpenAI tells it; what there is not yet is left out."""
    ended = row.state in ENDED
    told = {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": row.model,
        "errors": {"object": "list", "data": row.errors} if row.errors else None,
        "input_file_id": row.input_file_id,
        "completion_window": row.completion_window,
        "status": row.state,
        # They are chosen before they are there.
        "output_file_id": row.output_file_id if ended else None,
        "error_file_id": row.error_file_id if ended else None,
        "created_at": int(row.created_at),
        "expires_at": int(row.expires_at),
        **{name: row.moments.get(name) for name in MOMENTS},
        "request_counts": {"total": row.total, "completed": row.completed, "failed": row.failed},
        **({"usage": row.usage} if row.usage else {}),
    }
    return {**{name: value for name, value in told.items() if value is not None}, "metadata": row.metadata}


def usage_of(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Token counts in the form that batches have."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }
