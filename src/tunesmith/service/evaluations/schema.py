"""An evaluation: what asks for one, and how it is told."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool
from sqlalchemy import Row

from tunesmith.service.errors import ApiError

ENDED = ("succeeded", "failed", "cancelled")
# They say how rows are asked; of questions with choices the form is fixed.
_OF_ROWS = ("task", "metrics", "few_shot", "max_new_tokens")
_AROUND = ("model", "file", "metadata")
_Name = Annotated[str, Field(min_length=1, max_length=64)]
_Whole = Annotated[int, Field(strict=True)]


class CreateEvaluation(BaseModel):
    """The body that asks for an evaluation. What is left out is chosen by the rows."""

    model_config = ConfigDict(extra="forbid")
    model: Annotated[str, Field(min_length=1, max_length=255)]
    file: _Name
    task: _Name | None = None
    metrics: Annotated[list[_Name], Field(min_length=1, max_length=20)] | None = None
    rows: Annotated[_Whole, Field(ge=1, le=1_000_000)] | None = None
    few_shot: Annotated[_Whole, Field(ge=0, le=64)] | None = None
    max_new_tokens: Annotated[_Whole, Field(ge=1, le=32_768)] | None = None
    samples: Annotated[_Whole, Field(ge=0, le=1_000)] = 10
    multiple_choice: StrictBool = False
    robustness: StrictBool = False
    seed: Annotated[_Whole, Field(ge=0, le=2_147_483_647)] = 0
    metadata: dict[str, str] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """How it is measured, apart from which model and which file."""
        return self.model_dump(exclude=set(_AROUND))

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ApiError: 400.
        """
        wrong = [name for name in _OF_ROWS if getattr(self, name) is not None] if self.multiple_choice else []
        if wrong:
            raise ApiError(
                400,
                f"{', '.join(wrong)}: questions with choices are not asked so; leave it out, or leave out "
                "multiple_choice",
                code="invalid_value",
                param=wrong[0],
            )
        pairs = self.metadata or {}
        if len(pairs) > 16 or any(len(key) > 64 or len(value) > 512 for key, value in pairs.items()):
            raise ApiError(
                400,
                "metadata has at most 16 pairs, keys of at most 64 and values of at most 512 letters",
                code="invalid_value",
                param="metadata",
            )


def shown(row: Row[Any]) -> dict[str, Any]:
    """An evaluation as it is told."""
    return {
        "id": row.id,
        "object": "evaluation",
        "status": row.state,
        "model": row.model,
        "measured_model": row.measured,
        "base": row.base,
        "file": row.file_id,
        **row.options,
        "metadata": row.metadata,
        "created_at": int(row.created_at),
        "started_at": None if row.started_at is None else int(row.started_at),
        "finished_at": None if row.finished_at is None else int(row.finished_at),
        "progress": row.progress if row.state == "running" else None,
        "result": row.result,
        "usage": row.usage,
        "error": row.error,
    }
