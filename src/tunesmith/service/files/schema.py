"""Files as OpenAI's clients see them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.service.shared.file_shape import ExpiresAfter, Purpose
from tunesmith.service.shared.training_rows import Method


class CreateFile(BaseModel):
    """What comes with a file."""

    model_config = ConfigDict(extra="forbid")
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class DeletedFile(BaseModel):
    """What is told of a file that was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class CheckFile(BaseModel):
    """How a training file is to be judged; all of it may be left out.

    ``validation`` is the share of rows that a job would hold out, ``split_seed`` what the choice depends on;
    ``validation_file`` is another file, which is judged as well and compared.
    """

    model_config = ConfigDict(extra="forbid")
    method: Method = "supervised"
    columns: dict[str, str] | None = None
    shape: str | None = None
    validation: float | None = Field(default=None, gt=0, lt=1)
    split_seed: int = 0
    validation_file: str | None = None


def told_page(page: dict[str, Any]) -> dict[str, Any]:
    """A list of files; the contract has texts for the first and last name of an empty one too."""
    return {**page, "first_id": page["first_id"] or "", "last_id": page["last_id"] or ""}
