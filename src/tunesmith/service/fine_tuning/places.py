"""Where a job's things lie: its inputs and its run on the dispatcher's machine, and what it leaves in the storage."""

from __future__ import annotations

from pathlib import Path

from tunesmith.runs.layout import RunFolder
from tunesmith.service.context import Context

LOG = "worker.log"
REPORTS = {"json": "report.json", "html": "report.html", "md": "report.md"}
STORED_RUNS = "runs"


def inputs_folder(context: Context, job_id: str) -> Path:
    """Training and validation rows of a job, until it ends."""
    return context.settings.data_folder / "inputs" / job_id


def run_of(context: Context, job_id: str) -> RunFolder:
    """The run of a job, which is named like it."""
    return RunFolder(context.settings.runs_folder.absolute() / job_id)


def stored_run(job_id: str) -> str:
    """Where the run of a job lies in the storage, where workers of other machines find it."""
    return f"{STORED_RUNS}/{job_id}"


def left_at(project_id: str, job_id: str, name: str) -> str:
    """Where a file of a job lies in the storage once the job has ended."""
    return f"projects/{project_id}/jobs/{job_id}/{name}"


def without_places(context: Context, job_id: str, text: str) -> str:
    """A text without the folders of this machine: rows are told by ``training.jsonl:12``."""
    for folder in (inputs_folder(context, job_id), run_of(context, job_id).path, context.settings.data_folder):
        for place in (str(folder.absolute()), str(folder)):
            text = text.replace(f"{place}/", "").replace(place, folder.name)
    return text
