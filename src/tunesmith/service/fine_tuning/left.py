"""What a job's run has left: its report, its recipe, and what its worker printed."""

from __future__ import annotations

from typing import Any

from tunesmith.service.context import Context
from tunesmith.service.errors import not_found
from tunesmith.service.fine_tuning.mapping import TRAINING, VALIDATION
from tunesmith.service.fine_tuning.places import LOG, REPORTS, left_at, run_of, without_places
from tunesmith.service.fine_tuning.service import find_job

_MEDIA = {"json": "application/json", "html": "text/html; charset=utf-8", "md": "text/markdown; charset=utf-8"}
_MOST_LOG_BYTES = 2**20


def job_report(context: Context, project_id: str, job_id: str, form: str) -> tuple[str, str]:
    """A job's report before and after training, and its media type.

    Raises:
        ApiError: 404: the job has none yet, or it was removed after its time.
    """
    with context.database.read() as connection:
        find_job(connection, project_id, job_id)
    text = _text(context, project_id, job_id, REPORTS[form])
    if text is None:
        raise not_found("report of the job", job_id, "job_id")
    return without_places(context, job_id, text), _MEDIA[form]


def job_log(context: Context, project_id: str, job_id: str) -> str:
    """What the job's worker has printed, the last part of it; empty before it has begun."""
    with context.database.read() as connection:
        find_job(connection, project_id, job_id)
    return without_places(context, job_id, _text(context, project_id, job_id, LOG) or "")


def job_recipe(context: Context, project_id: str, job_id: str) -> dict[str, Any]:
    """A job's recipe as it would be written for the command line, with files named by their ids."""
    with context.database.read() as connection:
        row = find_job(connection, project_id, job_id)
    named = {TRAINING: row.training_file, VALIDATION: row.validation_file}
    data = {
        key: named.get(value, value) if isinstance(value, str) else value for key, value in row.recipe["data"].items()
    }
    return {**row.recipe, "model": row.model, "data": data}


def _text(context: Context, project_id: str, job_id: str, name: str) -> str | None:
    """A file of the run while it is here, or what was left of it in the storage."""
    path = run_of(context, job_id).path / name
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MOST_LOG_BYTES) if name == LOG else 0)
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        pass
    try:
        return context.storage.read(left_at(project_id, job_id, name)).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
