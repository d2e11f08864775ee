"""Sessions as requests and answers have them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

from tunesmith.service.auth.caller import Caller


class SignIn(BaseModel):
    """A key to sign in with."""

    model_config = ConfigDict(extra="forbid")
    key: Annotated[str, Field(min_length=1, max_length=200)]


def session_answer(
    caller: Caller, projects: list[dict[str, Any]], csrf: str | None, expires_at: float | None
) -> dict[str, Any]:
    """Who is signed in, what they may, and the word that their pages send with every change.

    ``csrf`` and ``expires_at`` are null for a request that came with a key and no session.
    """
    return {
        "object": "session",
        "name": caller.name,
        "scope": caller.scope,
        "is_operator": caller.is_operator,
        "project_id": caller.project_id,
        "projects": projects,
        "csrf_token": csrf,
        "expires_at": None if expires_at is None else int(expires_at),
    }


def own_project(row: Row[Any]) -> dict[str, Any]:
    """A project that somebody may choose."""
    return {"id": row.id, "name": row.name}
