"""The end of a job: its model, its result file, and what its run has written, kept where they outlive the run."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select

from tunesmith.errors import TunesmithError
from tunesmith.jobs.registry import Wanted, register
from tunesmith.jobs.submitted import Job
from tunesmith.registry.versions import Version
from tunesmith.runs.events import read_events
from tunesmith.runs.layout import RunFolder
from tunesmith.service.context import Context
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.dispatcher.keeping import registry_of
from tunesmith.service.dispatcher.reading import METRICS, steps_of
from tunesmith.service.fine_tuning.places import LOG, REPORTS, left_at, without_places
from tunesmith.service.fine_tuning.schema import error_json
from tunesmith.service.shared.files import keep_file

RESULT_NAME, RESULT_PURPOSE = "step_metrics.csv", "fine-tune-results"
# Codes of ours that OpenAI has a word for.
_CODES = {"data": "invalid_training_file", "supervision": "invalid_training_file"}
_MOST_LETTERS = 4000


def register_result(context: Context, run: Job) -> Version:
    """Put a finished run's model into the registry; a second time finds the first.

    Raises:
        TunesmithError: The registry cannot be written.
    """
    wanted = Wanted(run.run.name, checkpoints=False)
    store = registry_of(context)
    return register(store, str(run.run.path), run.run.path.parent, wanted, lambda _event: None).version


def keep_results(context: Context, job: Row[Any], run: RunFolder) -> str:
    """Keep the file with the numbers of every step; its id. A second time finds the first.

    Raises:
        OutputError, NetworkError: The storage cannot be written.
    """
    file_id = f"file-{job.id.removeprefix('ftjob-')}"
    with context.database.read() as connection:
        if connection.execute(select(FILES.c.id).where(FILES.c.id == file_id)).first() is not None:
            return file_id
    with tempfile.TemporaryDirectory(prefix="results-", dir=context.scratch) as folder:
        path = Path(folder) / RESULT_NAME
        path.write_text(result_table(run), encoding="utf-8", newline="")
        return keep_file(context, job.project_id, RESULT_PURPOSE, RESULT_NAME, path, file_id=file_id)


def result_table(run: RunFolder) -> str:
    """The numbers of every step as CSV, in the columns that checkpoints have."""
    text = io.StringIO()
    writer = csv.DictWriter(text, METRICS, lineterminator="\n")
    writer.writeheader()
    steps = steps_of(read_events(run.events))
    writer.writerows(steps[step] for step in sorted(steps))
    return text.getvalue()


def keep_writings(context: Context, job: Row[Any], run: RunFolder) -> None:
    """Put reports and the log into the storage, where every process of the service finds them.

    Raises:
        OutputError, NetworkError: The storage cannot be written.
    """
    for name in (*REPORTS.values(), LOG):
        if (run.path / name).is_file():
            context.storage.put(run.path / name, left_at(job.project_id, job.id, name))


def error_of(context: Context, job_id: str, error: TunesmithError, param: str | None = None) -> dict[str, Any]:
    """An error of ours as a job tells it: OpenAI's word for it, all problems, and no place of this machine."""
    head = error.code.partition(".")[0]
    code = _CODES.get(head, error.code)
    if param is None and (head in _CODES or error.code == "file_deleted"):
        param = error.place if error.code == "file_deleted" else "training_file"
    message = without_places(context, job_id, "\n".join(error.lines()))
    return error_json(code, message[:_MOST_LETTERS], param)
