"""OpenAI's form of a model."""

from __future__ import annotations

from typing import Any

OWNER = "tunesmith"


def shown(name: str, created: float, owner: str = OWNER) -> dict[str, Any]:
    """A model as OpenAI tells it."""
    return {"id": name, "object": "model", "created": int(created), "owned_by": owner}


def deleted(name: str) -> dict[str, Any]:
    """What is told of a model that was deleted."""
    return {"id": name, "object": "model", "deleted": True}
