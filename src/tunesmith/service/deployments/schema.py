"""What makes and changes a deployment, and how one is told."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

from tunesmith.service.errors import ApiError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_MOST_MODELS = 2
_WHOLE = 100


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CreateDeployment(_Body):
    """The body that makes a deployment: one model, or two with the parts of the requests in percent."""

    name: str
    model: str | None = None
    traffic: dict[str, int] | None = None
    kind: Literal["real-time", "batch"] = "real-time"
    min_replicas: Literal[0, 1] = 0
    idle_seconds: float | None = Field(default=None, ge=1, le=30 * 24 * 3600)

    def parts(self) -> dict[str, int]:
        """The parts by model.

        Raises:
            ApiError: 400.
        """
        if not _NAME.fullmatch(self.name):
            raise ApiError(
                400,
                "a deployment's name has 1 to 64 letters, digits, '.', '_' and '-', and begins with a letter or digit",
                code="invalid_value",
                param="name",
            )
        if (self.model is None) == (self.traffic is None):
            raise ApiError(400, "give either model or traffic", code="invalid_value", param="model")
        if self.kind == "batch" and self.min_replicas:
            raise ApiError(
                400,
                "a deployment for batches is started by them: min_replicas must be 0",
                code="invalid_value",
                param="min_replicas",
            )
        return {self.model: _WHOLE} if self.model is not None else checked(self.traffic or {})


class ChangeDeployment(_Body):
    """The body that changes one; what is not in it stays."""

    traffic: dict[str, int] | None = None
    min_replicas: Literal[0, 1] | None = None
    idle_seconds: float | None = Field(default=None, ge=1, le=30 * 24 * 3600)


def checked(traffic: dict[str, int]) -> dict[str, int]:
    """Parts of the requests in percent; models without a part are left out.

    Raises:
        ApiError: 400: more than two, or they are not a hundred together.
    """
    parts = {name: part for name, part in traffic.items() if part}
    if not 1 <= len(parts) <= _MOST_MODELS or min(parts.values()) < 0 or sum(parts.values()) != _WHOLE:
        raise ApiError(
            400,
            f"traffic has parts in percent of one or two models, together {_WHOLE}",
            code="invalid_value",
            param="traffic",
        )
    return parts


def shown(row: Row[Any], state: str, states: dict[str, str]) -> dict[str, Any]:
    """A deployment at this moment.

    Args:
        row: Its row.
        state: Of the whole.
        states: Of each of its models.
    """
    return {
        "id": row.id,
        "object": "deployment",
        "name": row.name,
        "kind": row.kind,
        "state": state,
        "traffic": row.traffic,
        "models": [{"model": name, "part": part, "state": states[name]} for name, part in row.traffic.items()],
        "min_replicas": row.least_replicas,
        "idle_seconds": row.idle_seconds,
        "created_at": int(row.created_at),
    }
