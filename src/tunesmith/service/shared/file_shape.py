"""The form of a file in OpenAI's contract, for the rooms that answer with one."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
BATCH_SECONDS = 30 * 86400


class ExpiresAfter(BaseModel):
    """When a file goes by itself: so many seconds after it was made."""

    model_config = ConfigDict(extra="forbid")
    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


def seconds_kept(purpose: str, expires_after: ExpiresAfter | None) -> int | None:
    """How long a file is kept: as asked; for good, but for input of batches."""
    if expires_after is not None:
        return expires_after.seconds
    return BATCH_SECONDS if purpose == "batch" else None


def told_file(row: Row[Any]) -> dict[str, Any]:
    """A file's row as the contract has it."""
    told = {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": row.status,
    }
    if row.expires_at is not None:
        told["expires_at"] = int(row.expires_at)
    if row.status_details is not None:
        told["status_details"] = row.status_details
    return told
