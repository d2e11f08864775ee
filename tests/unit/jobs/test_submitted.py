"""What is brought here of a job whose worker has its files in a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.executors.local.queue import LocalQueue
from tunesmith.executors.protocol import JobStatus
from tunesmith.jobs.submitted import Job, refresh
from tunesmith.recipe.executors.local import Local
from tunesmith.runs.layout import create_run
from tunesmith.storage.address import open_store
from tunesmith.storage.run_store import RunStore

LEFT = {"report.md", "manifest.json", "adapter/adapter_config.json", "checkpoints/step-00000002/manifest.json"}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """One whose worker has put all that it makes into the store."""
    url = (tmp_path / "store").as_uri()
    there = RunStore(open_store(url))
    for path in LEFT:
        there.store.write(f"files/{path}", b"{}")
    there.write_files(dict.fromkeys(LEFT, (2, 1)))
    run = create_run(tmp_path / "runs", "first")
    return Job(run, {"run": url, "inputs": {}}, LocalQueue(run.path.parent, Local()))


def brought(job: Job) -> set[str]:
    return {path for path in LEFT if (job.run.path / path).is_file()}


def test_a_run_that_its_platform_calls_running_has_no_manifest_before_what_it_speaks_of(job: Job) -> None:
    refresh(job, JobStatus("running"))
    assert brought(job) == {"report.md"}


def test_checkpoints_stay_where_the_worker_left_them(job: Job) -> None:
    refresh(job, JobStatus("succeeded"))
    assert brought(job) == {"report.md", "manifest.json", "adapter/adapter_config.json"}
