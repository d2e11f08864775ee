"""Uploads as OpenAI's clients see them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

from tunesmith.service.shared.file_shape import ExpiresAfter, Purpose, told_file


class CreateUpload(BaseModel):
    """A file that is to come."""

    model_config = ConfigDict(extra="forbid")
    filename: str = Field(min_length=1)
    purpose: Purpose
    bytes: int = Field(ge=1)
    mime_type: str = Field(max_length=255)
    expires_after: ExpiresAfter | None = None


class CompleteUpload(BaseModel):
    """The parts in their order, and what is known of the whole."""

    model_config = ConfigDict(extra="forbid")
    part_ids: list[str] = Field(min_length=1, max_length=10_000)
    md5: str | None = Field(default=None, pattern="^[0-9a-fA-F]{32}$")


def told_upload(row: Row[Any], file: Row[Any] | None, now: float) -> dict[str, Any]:
    """An upload's row as the contract has it; ``file`` is there once it is complete."""
    told = {
        "id": row.id,
        "object": "upload",
        "bytes": row.bytes,
        "created_at": int(row.created_at),
        "expires_at": int(row.expires_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "expired" if row.status == "pending" and row.expires_at <= now else row.status,
    }
    return told if file is None else {**told, "file": told_file(file)}


def told_part(row: Row[Any]) -> dict[str, Any]:
    """A part's row as the contract has it."""
    return {"id": row.id, "object": "upload.part", "created_at": int(row.created_at), "upload_id": row.upload_id}
